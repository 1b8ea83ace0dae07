"""Where a quantized file errs, layer by layer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from typing import Any

import keras

from tfjointrd.export.layer_errors import LayerError, layer_errors
from tfjointrd.extras import require
from tfjointrd.report.figures import save

DRAWN = 30  # layers in a figure


@dataclass(frozen=True)
class QuantizationError:
    """How far the layers of a file are from those of its network. Printed, it is a table.

    Attributes:
        layers: The layers, that with the largest error of its own first; see `LayerError`.
        images: Number of images that they were compared on.
    """

    layers: tuple[LayerError, ...]
    images: int

    def __str__(self) -> str:
        """The table: errors in percent of the root mean square of the layer's output."""
        head = ("layer", "operator", "weights", "activations", "own error %", "error %")
        rows = [
            (
                *(one.layer, one.operator, one.weights.lower(), one.activations.lower()),
                *(f"{100 * one.own_error:.3f}", f"{100 * one.error:.3f}"),
            )
            for one in self.layers
        ]
        widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
        sides = [str.ljust] * 4 + [str.rjust] * 2
        lines = [
            "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True))
            for row in (head, *rows)
        ]
        return "\n".join([*lines, f"{len(rows)} layers, {self.images} images"])

    def figure(self, path: str | PathLike | None = None):
        """Draws the layers that err most, worst first, as bars.

        Args:
            path: Where to write a PNG; its folder has to exist.

        Returns:
            The matplotlib `Axes`.
        """
        seaborn = require("seaborn")
        Figure = require("matplotlib.figure").Figure
        shown = self.layers[:DRAWN]
        with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook"):
            figure = Figure(figsize=(8, 1.4 + 0.28 * len(shown)), dpi=160, layout="constrained")
            axes = figure.subplots()
            own, inherited = seaborn.color_palette("colorblind", 2)
            places = range(len(shown))
            axes.barh(places, [100 * one.error for one in shown], 0.75, color=inherited, alpha=0.35)
            axes.barh(places, [100 * one.own_error for one in shown], 0.4, color=own)
            axes.set_yticks(places, [f"{one.layer}  {(one.weights or one.activations).lower()}" for one in shown])
            axes.tick_params(axis="y", labelsize=8)
            axes.margins(y=0.01)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.set_xlabel("error, % of the root mean square of the layer's output")
            axes.legend(["with that of earlier layers", "the layer's own"], loc="lower right", fontsize=9)
            left_out = len(self.layers) - len(shown)
            axes.set_title(
                "Error of a file by layer" + (f" ({left_out} more are smaller)" if left_out else ""), loc="left"
            )
            seaborn.despine(ax=axes, left=True)
        save(figure, path)
        return axes


def quantization_error(file: str | os.PathLike, network: keras.Model, images: Any) -> QuantizationError:
    """Compares each layer of a `.tflite` file with that of its Keras network, on images.

    A layer's own error is the one that it adds: its output in the file is compared with the output of the network's
    layer for the same inputs. The other error is against the network's own output, so it includes the errors of earlier
    layers. A layer with a large error of its own is the first to leave in float:
    `export.tflite(..., quantization={"*": "int8", layer: "float32"})`.

    Args:
        file: The file, in any number format.
        network: The network that it was made from.
        images: Array `(count, height, width, channels)`, in the range that the network takes; 16 to 64 are enough.

    Returns:
        A `QuantizationError`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file or none of this network, or the images have another shape than it takes.

    Example:

    >>> errors = quantization_error("resnet20_int8.tflite", network, images)
    >>> print(errors)
    layer  ...
    >>> axes = errors.figure("errors.png")
    """
    found = tuple(layer_errors(file, network, images))
    if not found:
        raise ValueError(
            "Expected `file` to be made from `network`, and to name its layers as TensorFlow's converter does. "
            f"Received: file='{os.fspath(file)}' and '{network.name}', which share no layer"
        )
    return QuantizationError(found, len(images))
