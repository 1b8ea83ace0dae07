"""Two optimizers as one: a student's and a teacher's, or those of weights and of gates."""

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


def undecayed(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> list[int]:
    """Positions of the variables that `exclude_from_weight_decay` names."""
    return [i for i, variable in enumerate(variables) if not _owner(optimizer, variable)._use_weight_decay(variable)]


def exclude(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> None:
    """Excludes variables from the weight decay of an optimizer that is not built yet."""
    owned = [(_owner(optimizer, variable), variable) for variable in variables]
    for owner in {id(owner): owner for owner, _ in owned}.values():
        owner.exclude_from_weight_decay(var_list=[variable for other, variable in owned if other is owner])


def _owner(optimizer, variable) -> keras.optimizers.Optimizer:
    """The optimizer that moves a variable, within those that scale the loss or are a pair."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer.owner(variable) if isinstance(optimizer, OptimizerPair) else optimizer


class OptimizerPair(keras.optimizers.Optimizer):
    """Applies one optimizer to most variables and another to some: a student's and a teacher's, weights' and gates'.

    `learning_rate` is the first one's, and can be set.

    Args:
        first: The optimizer of all variables that are not the second one's.
        second: The optimizer of the others.
        variables: The variables of the second.
        argument: The argument of `compile` by which the second was given, for the error message.
        together: Whether Keras' callbacks find both and set the learning rate of each, or of the first one only.

    Attributes:
        pair: Both optimizers.

    Raises:
        ValueError: If both are the same object, or one of them scales the loss.
    """

    def __init__(
        self,
        first: keras.optimizers.Optimizer,
        second: keras.optimizers.Optimizer,
        variables: Iterable[keras.Variable],
        argument: str = "teacher_optimizer",
        together: bool = True,
    ):
        super().__init__(learning_rate=0.0, name="optimizer_pair")
        if first is second:
            raise ValueError(f"Expected `{argument}` to be another than `optimizer`. Received: {first!r}.")
        for optimizer in (first, second):
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
                raise ValueError(
                    "Expected optimizers that leave the loss as it is, for one loss to serve both; in mixed precision "
                    f"`compile` scales it by itself. Received: {type(optimizer).__name__} with "
                    f"loss_scale_factor={optimizer.loss_scale_factor}."
                )
        self.pair = (first, second)
        if together:
            self.optimizers = self.pair  # where callbacks look for several
        self._of_second = {id(variable) for variable in variables}

    def owner(self, variable: keras.Variable) -> keras.optimizers.Optimizer:
        """The one of both that moves a variable."""
        return self.pair[id(variable) in self._of_second]

    def _split(self, variables: Iterable, values: Iterable) -> tuple[list, list]:
        """`values` of the first one's and of the second one's variables."""
        parts: tuple[list, list] = ([], [])
        for variable, value in zip(variables, values, strict=True):
            parts[id(variable) in self._of_second].append(value)
        return parts

    def build(self, variables):
        """Makes the variables of both."""
        super().build(variables)
        for optimizer, own in zip(self.pair, self._split(variables, variables), strict=True):
            optimizer.build(own)

    @property
    def variables(self):
        """Those of both, after the pair's own counter."""
        return [*super().variables, *(variable for optimizer in self.pair for variable in optimizer.variables)]

    def apply(self, grads, trainable_variables=None):
        """Takes one step with each."""
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if not self.built:
            self.build(variables)
        owned = self._split(variables, variables)
        for optimizer, own, gradients in zip(self.pair, owned, self._split(variables, grads), strict=True):
            optimizer.apply(gradients, own)
        self._iterations.assign_add(1)

    @property
    def learning_rate(self):
        """The first one's."""
        return self.pair[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.pair[0].learning_rate = value

    def finalize_variable_values(self, var_list):
        """Ends the training for each: puts averages in place, if it keeps any."""
        for optimizer, own in zip(self.pair, self._split(var_list, var_list), strict=True):
            optimizer.finalize_variable_values(own)

    def save_own_variables(self, store):
        """The counter. Keras saves the two optimizers with their own."""
        store["iterations"] = self._iterations.numpy()

    def load_own_variables(self, store):
        """The counter."""
        self._iterations.assign(store["iterations"])

    def get_config(self):
        """The configurations of both. The model that compiles the pair knows which variables are the second one's."""
        first, second = map(keras.saving.serialize_keras_object, self.pair)
        return {"first": first, "second": second}
