"""Two optimizers as one: a student's and a teacher's."""

from __future__ import annotations

from collections.abc import Iterable

import keras

_EXCLUSIONS = "_exclude_from_weight_decay"  # Keras serialises all of an optimizer but these


def like(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer with the settings of another, those of `exclude_from_weight_decay` included."""
    again = type(optimizer).from_config(optimizer.get_config())
    for name, value in vars(optimizer).items():
        if name.startswith(_EXCLUSIONS) and not name.endswith("cache"):
            setattr(again, name, value)
    return again


class OptimizerPair(keras.optimizers.Optimizer):
    """Applies one optimizer to the student's variables and another to the teacher's.

    `learning_rate` is the student's, and can be set. Keras' callbacks find both optimizers in `optimizers`, and set the
    learning rate of each.

    Args:
        student: The optimizer of all variables that are not the teacher's.
        teacher: The optimizer of the teacher's.
        teacher_variables: The teacher's variables.

    Raises:
        ValueError: If both are the same object, or one of them scales the loss.
    """

    def __init__(
        self,
        student: keras.optimizers.Optimizer,
        teacher: keras.optimizers.Optimizer,
        teacher_variables: Iterable[keras.Variable],
    ):
        super().__init__(learning_rate=0.0, name="optimizer_pair")
        if student is teacher:
            raise ValueError(f"Expected `teacher_optimizer` to be another than `optimizer`. Received: {student!r}.")
        for optimizer in (student, teacher):
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
                raise ValueError(
                    "Expected optimizers that leave the loss as it is, for one loss to serve both; in mixed precision "
                    f"`compile` scales it by itself. Received: {type(optimizer).__name__} with "
                    f"loss_scale_factor={optimizer.loss_scale_factor}."
                )
        self.optimizers = (student, teacher)
        self._of_teacher = {id(variable) for variable in teacher_variables}

    def _split(self, variables: Iterable, values: Iterable) -> tuple[list, list]:
        """`values` of the student's and of the teacher's variables."""
        parts: tuple[list, list] = ([], [])
        for variable, value in zip(variables, values, strict=True):
            parts[id(variable) in self._of_teacher].append(value)
        return parts

    def build(self, variables):
        """Makes the variables of both."""
        super().build(variables)
        for optimizer, own in zip(self.optimizers, self._split(variables, variables), strict=True):
            optimizer.build(own)

    @property
    def variables(self):
        """Those of both, after the pair's own counter."""
        return [*super().variables, *(variable for optimizer in self.optimizers for variable in optimizer.variables)]

    def apply(self, grads, trainable_variables=None):
        """Takes one step with each."""
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if not self.built:
            self.build(variables)
        owned = self._split(variables, variables)
        for optimizer, own, gradients in zip(self.optimizers, owned, self._split(variables, grads), strict=True):
            optimizer.apply(gradients, own)
        self._iterations.assign_add(1)

    @property
    def learning_rate(self):
        """The student's."""
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.optimizers[0].learning_rate = value

    def finalize_variable_values(self, var_list):
        """Ends the training for each: puts averages in place, if it keeps any."""
        for optimizer, own in zip(self.optimizers, self._split(var_list, var_list), strict=True):
            optimizer.finalize_variable_values(own)

    def save_own_variables(self, store):
        """The counter. Keras saves the two optimizers with their own."""
        store["iterations"] = self._iterations.numpy()

    def load_own_variables(self, store):
        """The counter."""
        self._iterations.assign(store["iterations"])

    def get_config(self):
        """The configurations of both. The model that compiles the pair knows which variables are the teacher's."""
        student, teacher = map(keras.saving.serialize_keras_object, self.optimizers)
        return {"student": student, "teacher": teacher}
