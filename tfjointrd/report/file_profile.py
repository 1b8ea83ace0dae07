"""What a `.tflite` file is made of."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tfjointrd.export.file_graph import read_file
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.metadata import FileMetadata, read_metadata

_NOT_WEIGHTS = ("INT32", "INT64")  # biases of integer layers, sizes and axes


@dataclass(frozen=True)
class FileProfile:
    """What a `.tflite` file is made of. Printed, it is a table.

    Attributes:
        path: The file.
        bytes: Its size.
        input: Number format and shape of its input, as `"uint8 (1, 32, 32, 3)"`.
        output: Likewise of its output; of several, each behind its name.
        operators: `(operator, number format of the weights, of the output) -> how many there are`; of the weights an
            empty text where there are none.
        weight_bytes: Number format -> bytes of the file that weights in it take.
        metadata: The file's metadata; `None` if it has none.
    """

    path: Path
    bytes: int
    input: str
    output: str
    operators: dict[tuple[str, str, str], int]
    weight_bytes: dict[str, int]
    metadata: FileMetadata | None = None

    def __str__(self) -> str:
        """The table."""
        weights = ", ".join(f"{size:,} in {name}" for name, size in self.weight_bytes.items())
        head = ("count", "operator", "weights", "output")
        rows = [head, *((str(count), *key) for key, count in self.operators.items())]
        widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
        return "\n".join(
            [
                f"{self.path}: {self.bytes:,} bytes; {self.input} in, {self.output} out",
                *([] if self.metadata is None else [str(self.metadata)]),
                f"bytes of weights: {weights or 'none'}",
                *("  ".join([row[0].rjust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip() for row in rows),
            ]
        )


def file_profile(path: str | os.PathLike) -> FileProfile:
    """Says what a `.tflite` file is made of, in any number format. The file is loaded, to see that it runs.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole `.tflite` file, or does not run.

    Example:

    >>> file_profile("resnet20.tflite").weight_bytes.keys()
    dict_keys(['float32'])
    """
    model, graph = TFLiteModel(path), read_file(Path(path).read_bytes())
    weights = [(step, graph.weights(step)) for step in graph.operators]
    operators = Counter(
        (step.kind, "" if stored is None else graph.types[stored].lower(), graph.types[step.outputs[0]].lower())
        for step, stored in weights
    )
    sizes: Counter[str] = Counter()
    for name, size in zip(graph.types, graph.sizes, strict=True):
        if size and name not in _NOT_WEIGHTS:
            sizes[name.lower()] += size
    return FileProfile(
        path=Path(path),
        bytes=os.path.getsize(path),
        input=f"{model.input_type} {model.input_shape}",
        output=", ".join(
            f"{f'{name}: ' if len(model.outputs) > 1 else ''}{output.type} {output.shape}"
            for name, output in model.outputs.items()
        ),
        operators=dict(operators),
        weight_bytes=dict(sizes),
        metadata=read_metadata(path),
    )
