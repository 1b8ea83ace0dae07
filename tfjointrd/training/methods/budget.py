"""What a search may spend: the paper's price for multiply-accumulates, or a limit that is kept to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from tfjointrd.layers.gates import ChannelGates
from tfjointrd.surgery.budgets import share_of
from tfjointrd.surgery.expected_cost import Cost, fitted

# How strongly a budget is kept to: the weight of the penalty is PROPORTIONAL times the excess, as a part of the full
# network's cost, plus INTEGRAL times the sum of the excess over the training. On digits (ResNet-20, 12 epochs, target
# 0.5) 10 and 20 end at 0.522, these at 0.497.
PROPORTIONAL, INTEGRAL = 50.0, 100.0


class Budget:
    """One of the budgets of `DAN`.

    Args:
        costs: Costs by name.
        given: `gamma` and `target_...` as they were given, `None` where they were not. If none was, the middle between
            the multiply-accumulates of the narrowest and of the widest candidates is the target.

    Attributes:
        name: What it is counted in: `"macs"`, `"parameters"` or `"latency_ms"`.
        cost: That cost.
        gamma: The price, or `None`.
        target: The limit as a part of the full network's cost, or `None`.

    Raises:
        OutOfReach: If a target cannot be reached.
        ValueError: If several are given, or `gamma` is negative.
    """

    def __init__(self, costs: Mapping[str, Cost], given: Mapping[str, float | None]):
        chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        chosen = chosen or {"target_macs": None}
        if len(chosen) > 1:
            raise ValueError(f"Expected one of {', '.join(given)}. Received: {chosen}.")
        ((argument, value),) = chosen.items()
        self.name = "macs" if argument == "gamma" else argument.removeprefix("target_")
        if self.name not in costs:
            raise ValueError(f"Expected `latency_table` for {argument}={value}. Received: latency_table=None.")
        self.cost = costs[self.name]
        self.gamma: float | None = None
        self.target: float | None = None
        if argument == "gamma":
            if not value >= 0:
                raise ValueError(f"Expected `gamma` from 0 on. Received: gamma={value}.")
            self.gamma = float(value)
        else:
            self.target = self._share(argument, value)

    def _share(self, argument: str, value: float | None) -> float:
        """A target as a part of the full network's cost."""
        groups, full = len(self.cost.linear), self.cost.full
        low, high = (self.cost.of_choices([position] * groups) / full for position in (-1, 0))
        value = (low + high) / 2 if value is None else value
        hints = "Larger `alphas` reach lower.", "No candidates are wider."
        return share_of(argument, value, full, low, high, "the candidates reach", hints)

    def expected(self, gates: ChannelGates):
        """The cost to expect of a random choice, as a part of the full network's, a scalar tensor."""
        return self.cost.share(gates.probabilities())

    def penalty(self, gates: ChannelGates, multiplier, training: bool):
        """gamma n_f (Eqn 6), or the expected cost times a weight that rises with the excess over the target.

        Args:
            gates: The gates.
            multiplier: The sum of the excess over the training so far, weighted.
            training: Whether the gates mix, or have chosen.
        """
        if self.gamma is not None:
            return self.gamma * self.cost.full * self.cost.share(gates.weights_of_candidates(training))
        share = self.expected(gates)
        return ops.stop_gradient(multiplier + PROPORTIONAL * (share - self.target)) * share

    def excess(self, share):
        """What a step adds to the multiplier, times lambda(t) and the step's part of the training."""
        return INTEGRAL * (share - self.target)

    def fitted(self, choices: list[int], logarithms: np.ndarray) -> list[int]:
        """Choices that keep to the target, as probable as may be; without a target, as they are.

        Raises:
            ValueError: If the probabilities are not finite numbers.
        """
        if not np.isfinite(logarithms).all():
            raise ValueError(
                "Expected a search whose gates have probabilities. Received: NaN, as after a training that diverged."
            )
        if self.target is None:
            return choices
        return fitted(self.cost, choices, logarithms, self.target * self.cost.full * (1 + 1e-6))
