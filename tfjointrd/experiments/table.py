"""The table that sets networks side by side: accuracy as a Keras network and as files, size, work, memory, time."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tfjointrd import report
from tfjointrd.experiments import card as cards
from tfjointrd.experiments.folder import Run, find_file


@dataclass(frozen=True)
class Row:
    """One network in a table.

    Attributes:
        name: What the network is.
        accuracy: Top-1 on the validation images, in Keras, mean over the seeds.
        accuracy_float32: Top-1 of the first seed's float32 `.tflite` file.
        accuracy_int8: Top-1 of its int8 file.
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


def measure(name: str, run: Run, network: str) -> Row:
    """A row from a card, and the latency of the files on this machine.

    Args:
        name: What to call it in the table.
        run: The finished training.
        network: Which of its networks.

    Raises:
        FileNotFoundError: If the network was not exported; the card says why.
    """
    entry, seed = run.card["networks"][network], run.card["seeds"][str(run.recipe.seed)]
    files = {kind: f"{network}_{kind}.tflite" for kind in cards.QUANTIZATIONS}
    for file in files.values():
        if file not in entry["files"]:
            reason = "; ".join(entry.get("not_exported", {}).values()) or "unknown reason"
            raise FileNotFoundError(f"Expected '{run.folder}' to hold {file}. Received: not exported ({reason}).")
    paths = {kind: find_file(run.folder, file, run.recipe.seed) for kind, file in files.items()}
    return Row(
        name=name,
        accuracy=run.accuracy(network),
        parameters=entry["parameters"],
        macs=entry["macs"],
        peak_activation_bytes=entry["peak_activation_bytes"],
        **{f"accuracy_{kind}": seed["accuracy"][network][kind] for kind in files},
        **{f"bytes_{kind}": entry["files"][file] for kind, file in files.items()},
        **{f"latency_{kind}": report.latency(path).median_ms for kind, path in paths.items()},
    )


def measure_run(run: Run) -> list[Row]:
    """A row for each network of a finished training, named after its folder."""
    return [
        measure(run.folder.name + ("" if network == "model" else f" {network}"), run, network)
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
