"""Two optimizers as one: a student's and a teacher's."""

from __future__ import annotations

from collections.abc import Iterable

import keras


class OptimizerPair(keras.optimizers.Optimizer):
    """Applies one optimizer to the student's variables and another to the teacher's.

    To callbacks it looks like the student's: `learning_rate` is the student's, and can be set.

    Args:
        student: The optimizer of all variables that are not the teacher's.
        teacher: The optimizer of the teacher's.
        teacher_variables: The teacher's variables.
    """

    def __init__(
        self,
        student: keras.optimizers.Optimizer,
        teacher: keras.optimizers.Optimizer,
        teacher_variables: Iterable[keras.Variable],
    ):
        super().__init__(learning_rate=0.0, name="optimizer_pair")
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

    def save_own_variables(self, store):
        """All variables, by number."""
        for i, variable in enumerate(self.variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        """All variables, by number."""
        for i, variable in enumerate(self.variables):
            variable.assign(store[str(i)])

    def get_config(self):
        """The pair is made again by the model that compiles it."""
        raise NotImplementedError("An `OptimizerPair` is saved as the two optimizers that it holds.")
