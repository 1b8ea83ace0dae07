"""What the gates of a search choose, epoch by epoch."""

from __future__ import annotations

from tfjointrd.training.callbacks.recorder import Recorder
from tfjointrd.training.methods.dan import DAN


class GateRecorder(Recorder):
    """Records the probability of each candidate of each gate while a `DAN` is trained.

    Args:
        path: A `.csv` file; see `GradientRecorder`.

    Attributes:
        history: A dict for each record, group and candidate: `epoch`, the number of finished epochs; `step`, that of
            finished steps; `group`, the name of its first layer; `alpha` and `probability` of the candidate.

    Raises:
        ValueError: If the model that is trained is not a `DAN`, or `path` is another file.

    Example:

    >>> recorder = GateRecorder("gates.csv")
    >>> history = dan.fit(train, epochs=2, callbacks=[recorder], verbose=0)
    """

    columns = {"epoch": int, "step": int, "group": str, "alpha": float, "probability": float}

    def set_model(self, model):
        """Called by Keras with the model that is trained."""
        super().set_model(model)
        if not isinstance(model, DAN):
            raise ValueError(f"Expected a `DAN` to be trained. Received: {model!r} of type {type(model).__name__}.")

    def records(self, epoch: int, step: int) -> list[dict]:
        """The probabilities as they are now."""
        return [
            dict(zip(self.columns, (epoch, step, group.name, float(alpha), float(probability)), strict=True))
            for group, row in zip(self.model.groups, self.model.probabilities(), strict=True)
            for alpha, probability in zip(self.model.alphas, row, strict=True)
        ]
