"""The table that sets networks side by side: accuracy as a Keras network and as files, size, work, memory, time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from tfjointrd import data, export, report
from tfjointrd.experiments.runner import Run


@dataclass(frozen=True)
class Row:
    """One network in a table.

    Attributes:
        name: What the network is.
        accuracy: Top-1 on the validation images, in Keras.
        accuracy_float32: The same for the float32 `.tflite` file.
        accuracy_int8: The same for the int8 `.tflite` file.
        parameters: Number of parameters.
        macs: Multiply-accumulates an image.
        peak_activation_bytes: Most memory that activations take at a time, float32, one image.
        bytes_float32: Size of the float32 file.
        bytes_int8: Size of the int8 file.
        latency_float32: Median milliseconds an image, float32 file, one thread of this machine.
        latency_int8: The same for the int8 file.
    """

    name: str
    accuracy: float
    accuracy_float32: float
    accuracy_int8: float
    parameters: int
    macs: int
    peak_activation_bytes: int
    bytes_float32: int
    bytes_int8: int
    latency_float32: float
    latency_int8: float

    def as_dict(self) -> dict:
        """The row as plain data."""
        return asdict(self)


def measure(name: str, run: Run, network: str, train: data.Pipeline, validation: data.Pipeline) -> Row:
    """Exports a trained network as float32 and int8, beside its `.keras` file, and measures all three.

    Args:
        name: What to call it in the table.
        run: The finished training.
        network: Which of its networks.
        train: Images to calibrate int8 on.
        validation: Images to measure accuracy on.
    """
    model: keras.Model = run.networks[network]
    entry = run.card["networks"][network]
    files = {}
    for kind, quantization in (("float32", None), ("int8", "int8")):
        path = Path(run.folder) / f"{network}_{kind}.tflite"
        files[kind] = export.tflite(model, path, quantization=quantization, representative_data=train)
    return Row(
        name=name,
        accuracy=entry["accuracy"],
        parameters=entry["parameters"],
        macs=entry["macs"],
        peak_activation_bytes=entry["peak_activation_bytes"],
        **{f"accuracy_{kind}": export.accuracy(file.path, validation) for kind, file in files.items()},
        **{f"bytes_{kind}": file.bytes for kind, file in files.items()},
        **{f"latency_{kind}": report.latency(file.path).median_ms for kind, file in files.items()},
    )


def measure_run(run: Run) -> list[Row]:
    """A row for each network of a finished training, named after its folder."""
    train, validation = data.load(run.recipe.data, augment=False)
    return [
        measure(run.folder.name + ("" if network == "model" else f" {network}"), run, network, train, validation)
        for network in run.networks
    ]


_COLUMNS = {
    "network": lambda row: row.name,
    "Keras %": lambda row: f"{100 * row.accuracy:.2f}",
    "float32 %": lambda row: f"{100 * row.accuracy_float32:.2f}",
    "int8 %": lambda row: f"{100 * row.accuracy_int8:.2f}",
    "parameters": lambda row: f"{row.parameters:,}",
    "MACs (M)": lambda row: f"{row.macs / 1e6:.2f}",
    "live memory (KiB)": lambda row: f"{row.peak_activation_bytes / 1024:.1f}",
    "float32 (KiB)": lambda row: f"{row.bytes_float32 / 1024:.0f}",
    "int8 (KiB)": lambda row: f"{row.bytes_int8 / 1024:.0f}",
    "float32 (ms)": lambda row: f"{row.latency_float32:.3f}",
    "int8 (ms)": lambda row: f"{row.latency_int8:.3f}",
}


def markdown(rows: list[Row]) -> str:
    """The table in Markdown, its columns aligned for reading as plain text too."""
    cells = [list(_COLUMNS), *([write(row) for write in _COLUMNS.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]

    def line(values: list[str]) -> str:
        first, *others = (
            v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])
