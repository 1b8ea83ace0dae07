"""What a `.tflite` file says of itself: names of input, outputs and classes, and the range of its pixels.

The form is TFLite Metadata, which MediaPipe and Android Studio read: a table inside the file, and the names of the
classes as `labels.txt` in a zip archive behind it. The interpreter reads neither.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfjointrd.export import metadata_tables as tables
from tfjointrd.export.class_names import read_labels
from tfjointrd.export.file_graph import final_operator, pack, read_file, unpack
from tfjointrd.export.file_range import range_of
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.extras import require
from tfjointrd.files import replacing, write_json
from tfjointrd.pixel_ranges import PIXEL_RANGES
from tfjointrd.stacklevel import stacklevel_outside_the_package

_ENTRY = b"TFLITE_METADATA"
_LABELS = "labels.txt"
_PROBABILITIES: dict[str | None, str] = {
    "SOFTMAX": "probabilities of the classes",
    "LOGISTIC": "a probability for each class",
}


@dataclass(frozen=True)
class FileMetadata:
    """What a file says of itself.

    Attributes:
        name: The network's name.
        description: What it does, in a sentence.
        input: Name of the input, for callers.
        outputs: Names of the outputs, for callers.
        pixel_range: What the network takes for pixels from 0 to 255, a name of `tfjointrd.pixel_ranges.PIXEL_RANGES`;
            `None` for another range, and where nothing is said of it.
        mean: What is taken from a pixel between 0 and 255, for each channel or for all.
        std: What the difference is then divided by.
        labels: Names of the classes; empty where they are not known.
        author: Who made it.
        license: Under what licence it may be used.
        labels_of: Name of the output that has these classes.
    """

    name: str
    description: str
    input: str
    outputs: tuple[str, ...]
    pixel_range: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] = ()
    author: str = ""
    license: str = ""
    labels_of: str = ""

    @property
    def normalizes(self) -> bool:
        """Whether pixels between 0 and 255 are brought to another range."""
        return any(self.mean) or any(value != 1 for value in self.std)

    def __str__(self) -> str:
        """A line or two."""
        others = f"a range of mean {self.mean}, std {self.std}" if self.normalizes else "a range that is not named"
        taken = f"the range {self.pixel_range}" if self.pixel_range else others
        shown = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
        of_output = f" of {self.labels_of}" if len(self.outputs) > 1 else ""
        classes = f"; {len(self.labels)} classes{of_output}: {shown}" if self.labels else ""
        return f"takes '{self.input}' in {taken}, gives {', '.join(self.outputs)}{classes}"


def describe_file(
    path: str | os.PathLike,
    labels: str | os.PathLike | Sequence[str] | Mapping[str, Any] | None = None,
    *,
    name: str = "",
    description: str = "",
    pixel_range: str | None = None,
    author: str = "",
    license: str = "",
    card: bool = True,
) -> FileMetadata:
    """Writes metadata for apps into a `.tflite` file, and a card with the same beside it.

    Earlier metadata of the file are replaced. The file computes the same as before.

    Args:
        path: The file, with one input `(1, height, width, channels)`.
        labels: Names of the classes: a list, a text file with one a line, names with commas between them, or a data set
            of `tfjointrd.data.load`. If the file has several outputs, a dict of one of these by the name of the output.
            By default no labels are written.
        name: What it is called; the file's name without its ending by default.
        description: What it does, in a sentence.
        pixel_range: What the network takes for pixels from 0 to 255: `"0..255"`, `"0..1"`, `"-1..1"` or `"imagenet"`.
            By default the range that the file's first operators show; where they show none, `"0..255"`, with a
            warning.
        author: Who made it.
        license: Under what licence it may be used.
        card: Whether `path` with the ending `.json` is written too.

    Returns:
        The metadata, as `read_metadata` reads them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, if there are more or fewer labels than classes, if `labels` do not say
            of which of several outputs they are, or if there is no such range.
        OSError: If the file cannot be written.

    Example:

    >>> describe_file("resnet20.tflite", "zero,one,two,three,four,five,six,seven,eight,nine").labels[3]
    'three'
    >>> read_metadata("resnet20.tflite").pixel_range
    '0..255'
    """
    model, content = TFLiteModel(path), Path(path).read_bytes()
    graph = read_file(content)
    if pixel_range is not None and pixel_range not in PIXEL_RANGES:
        raise ValueError(f"Expected `pixel_range` to be one of {list(PIXEL_RANGES)}. Received: {pixel_range!r}")
    inputs, outputs = graph.signature
    names = tuple(outputs.get(index, f"output{number}") for number, index in enumerate(graph.outputs))
    labelled, own = _output_of(labels, names)
    found = pixel_range or range_of(content, graph, model)
    if found is None:
        found = "0..255"
        warnings.warn(
            f"'{os.fspath(path)}' does not show what it takes for pixels from 0 to 255. Its metadata say 0..255. If "
            "that is wrong, name the range: `pixel_range`.",
            stacklevel=stacklevel_outside_the_package(),
        )
    mean, std = _statistics(found, model.input_shape[-1])
    metadata = FileMetadata(
        name=name or Path(path).stem,
        description=description or "Says what an image shows.",
        input=inputs.get(graph.inputs[0], "image"),
        outputs=names,
        pixel_range=found,
        mean=mean,
        std=std,
        labels=() if own is None else tuple(read_labels(own, model.shape_of(graph.outputs[labelled])[-1])),
        labels_of="" if own is None else names[labelled],
        author=author,
        license=license,
    )
    kinds = [_PROBABILITIES.get(final_operator(graph, index), "logits or numbers") for index in graph.outputs]
    with replacing(path) as part:
        names_file = {_LABELS: ("\n".join(metadata.labels) + "\n").encode()} if metadata.labels else {}
        part.write_bytes(_with(content, _table(metadata, model, kinds), names_file))
        TFLiteModel(part)  # that it still runs
    if card:
        _write_card(Path(path), metadata, model)
    return metadata


def read_metadata(path: str | os.PathLike) -> FileMetadata | None:
    """Reads the metadata of a `.tflite` file.

    Args:
        path: The file; it may come from elsewhere.

    Returns:
        The metadata; `None` if there are none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, or its metadata are damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected `path` to be a .tflite file. Received: path='{os.fspath(path)}'")
    content = Path(path).read_bytes()
    stored = _stored(unpack(content))
    if stored is None:
        return None
    try:
        return _parsed(stored, content)
    except Exception as error:  # whatever reading beyond the end leads to
        raise ValueError(f"Expected whole metadata in path='{os.fspath(path)}'. Received: {error}") from error


def _output_of(labels: Any, names: Sequence[str]) -> tuple[int, Any]:
    """The position of the output that labels are of, and the labels."""
    by_name = isinstance(labels, Mapping)
    if by_name and (len(labels) != 1 or not set(labels) <= set(names)):
        raise ValueError(
            f"Expected `labels` of one output, by its name in the file: {', '.join(names)}. Received: "
            f"{', '.join(map(str, labels))}"
        )
    if labels is not None and not by_name and len(names) > 1:
        raise ValueError(
            "Expected `labels` to be a dict that says of which output they are, since the file has several: "
            f"labels={{'{names[0]}': ...}} for one of {', '.join(names)}. Received: a {type(labels).__name__}"
        )
    return next(((names.index(name), own) for name, own in labels.items()), (0, None)) if by_name else (0, labels)


def with_metadata_of(content: bytes, source: bytes) -> bytes:
    """A file with the metadata and labels of another one, if that has any."""
    stored, files = _stored(unpack(source)), {}
    if stored is None:
        return content
    if zipfile.is_zipfile(io.BytesIO(source)):
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    return _with(content, stored, files)


def _statistics(pixel_range: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that lead from pixels between 0 and 255 to a range."""
    scale, offset = (np.atleast_1d(np.asarray(part, "float64")) for part in PIXEL_RANGES[pixel_range])
    if len(scale) not in (1, channels):
        raise ValueError(
            f"Expected `pixel_range` for {channels} channels. Received: pixel_range='{pixel_range}', which has "
            f"{len(scale)}"
        )
    rounded = (np.round(-offset / scale, 3) + 0.0, np.round(1 / scale, 3))
    mean, std = (tuple(float(np.float32(value)) for value in part) for part in rounded)
    return mean, std


def _table(metadata: FileMetadata, model: TFLiteModel, kinds: Sequence[str]) -> bytes:
    """The metadata in the schema of TFLite Metadata."""
    make = tables.TableOf
    mean, std = list(metadata.mean), list(metadata.std)
    normalization = make(tables.NORMALIZATION_OPTIONS, {"mean": mean, "std": std})
    low, high = ([(edge - m) / s for m, s in zip(mean, std, strict=True)] for edge in (0.0, 255.0))
    color = {1: tables.GRAYSCALE, 3: tables.RGB}.get(model.input_shape[-1], tables.UNKNOWN_COLORS)
    image = make(tables.IMAGE_PROPERTIES, {"color_space": tables.Byte(color)})
    unit = {"kind": tables.Byte(tables.NORMALIZATION), "options": normalization}
    taken = {
        "name": metadata.input,
        "description": f"An image; pixels from 0 to 255 are brought to the range {metadata.pixel_range}.",
        "content": make(tables.CONTENT, {"kind": tables.Byte(tables.IMAGE), "properties": image}),
        "process_units": [make(tables.PROCESS_UNIT, unit)],
        "stats": make(tables.STATS, {"max": high, "min": low}),
    }
    file = {"name": _LABELS, "description": "Names of the classes.", "type": tables.Byte(tables.AXIS_LABELS)}
    feature = {"kind": tables.Byte(tables.FEATURE), "properties": make({"none": 0}, {})}
    given = [
        {
            "name": name,
            "description": f"{kind[0].upper()}{kind[1:]}.",
            "content": make(tables.CONTENT, feature),
            "files": [make(tables.FILE, file)] if name == metadata.labels_of and metadata.labels else None,
        }
        for name, kind in zip(metadata.outputs, kinds, strict=True)
    ]
    subgraph = {
        "inputs": [make(tables.TENSOR, taken)],
        "outputs": [make(tables.TENSOR, values) for values in given],
    }
    return tables.written(
        make(
            tables.MODEL,
            {
                "name": metadata.name,
                "description": metadata.description,
                "version": "1",
                "subgraphs": [make(tables.SUBGRAPH, subgraph)],
                "author": metadata.author or None,
                "license": metadata.license or None,
                "minimum_version": tables.MINIMUM_VERSION,
            },
        )
    )


def _with(content: bytes, stored: bytes, files: Mapping[str, bytes]) -> bytes:
    """A file with metadata in the place of those that it may have, and an archive of files behind it."""
    schema = require("ai_edge_litert.schema_py_generated")
    model = unpack(content)
    entry = next((entry for entry in model.metadata or [] if entry.name == _ENTRY), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = _ENTRY, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or []), entry]
    model.buffers[entry.buffer].data = np.frombuffer(stored, "uint8")
    packed = pack(model, len(content) + len(stored))
    if not files:
        return packed
    archive = io.BytesIO(packed)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as zipped:  # readers on phones take stored ones alone
        for name, data in files.items():
            zipped.writestr(zipfile.ZipInfo(name), data)
    return archive.getvalue()


def _stored(model) -> bytes | None:
    entry = next((entry for entry in model.metadata or [] if entry.name == _ENTRY), None)
    data = None if entry is None else model.buffers[entry.buffer].data
    return None if data is None else bytes(data)


def _parsed(stored: bytes, content: bytes) -> FileMetadata:
    root = tables.Read.root(stored)
    subgraph = next(iter(root.tables("subgraphs", tables.SUBGRAPH)))
    taken = next(iter(subgraph.tables("inputs", tables.TENSOR)))
    given = list(subgraph.tables("outputs", tables.TENSOR))
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    ranges: list[str] = []
    for unit in taken.tables("process_units", tables.PROCESS_UNIT):
        if unit.byte("kind") == tables.NORMALIZATION:
            options = unit.table("options", tables.NORMALIZATION_OPTIONS)
            if options is None:
                raise ValueError("a normalization without mean and std")
            mean, std = options.floats("mean"), options.floats("std")
            channels = max(len(mean), len(std))
            ranges = [name for name in PIXEL_RANGES if _close(name, channels, mean, std)]
    labelled, labels = _labels(given, content)
    return FileMetadata(
        name=root.text("name"),
        description=root.text("description"),
        input=taken.text("name"),
        outputs=tuple(output.text("name") for output in given),
        pixel_range=ranges[0] if ranges else None,
        mean=mean,
        std=std,
        labels=labels,
        author=root.text("author"),
        license=root.text("license"),
        labels_of=labelled,
    )


def _close(name: str, channels: int, mean: Sequence[float], std: Sequence[float]) -> bool:
    try:
        expected = _statistics(name, channels)
    except ValueError:  # of three channels, where there is one
        return False
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(expected, (mean, std), strict=True))


def _labels(outputs: Sequence[tables.Read], content: bytes) -> tuple[str, tuple[str, ...]]:
    """The first output that has names of classes, and these."""
    for output in outputs:
        for file in output.tables("files", tables.FILE):
            if file.byte("type") == tables.AXIS_LABELS:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    return output.text("name"), tuple(archive.read(file.text("name")).decode().splitlines())
    return "", ()


def _write_card(path: Path, metadata: FileMetadata, model: TFLiteModel) -> None:
    """The same, and shapes and number formats, as JSON beside the file."""
    scale, zero_point = model.input_quantization
    own = model.outputs
    outputs = [own[name] for name in metadata.outputs] if set(own) == set(metadata.outputs) else own.values()
    ends = {
        "input": {
            **{"name": metadata.input, "shape": list(model.input_shape), "type": model.input_type},
            **{"scale": float(scale), "zero_point": int(zero_point)},
        },
        "outputs": [
            {"name": name, "shape": list(output.shape), "type": output.type}
            for name, output in zip(metadata.outputs, outputs, strict=True)
        ],
    }
    content = {"file": path.name, "bytes": path.stat().st_size, **asdict(metadata), **ends}
    write_json(path.with_suffix(".json"), content)
