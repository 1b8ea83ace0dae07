"""TFLite Metadata as bytes: the tables of `metadata_schema.fbs` (version 1.0), written and read by their fields.

No package that is kept up writes them alone: tflite-support has ended, and mediapipe, which reads them, is large. The
schema is public and does not change: https://github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

IDENTIFIER = b"M001"
MINIMUM_VERSION = "1.0.0"  # of a reader: nothing newer is used
AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
FEATURE, IMAGE = 1, 2  # ContentProperties
NORMALIZATION = 1  # ProcessUnitOptions
UNKNOWN_COLORS, RGB, GRAYSCALE = 0, 1, 2  # ColorSpaceType

# Numbers of the fields of each table, in the order of the schema.
MODEL = {"name": 0, "description": 1, "version": 2, "subgraphs": 3, "author": 4, "license": 5, "minimum_version": 7}
SUBGRAPH = {"name": 0, "description": 1, "inputs": 2, "outputs": 3}
TENSOR = {"name": 0, "description": 1, "content": 3, "process_units": 4, "stats": 5, "files": 6}
CONTENT = {"kind": 0, "properties": 1}
IMAGE_PROPERTIES = {"color_space": 0}
PROCESS_UNIT = {"kind": 0, "options": 1}
NORMALIZATION_OPTIONS = {"mean": 0, "std": 1}
STATS = {"max": 0, "min": 1}
FILE = {"name": 0, "description": 1, "type": 2}


@dataclass(frozen=True)
class Byte:
    """A field of one byte, such as an enumeration."""

    value: int


@dataclass(frozen=True)
class TableOf:
    """A table: the numbers of its fields, and their values; those that are `None` are left out."""

    fields: dict[str, int]
    values: dict[str, Any]


def written(table: TableOf) -> bytes:
    """The bytes of a table that is the root.

    Values are texts, `Byte`s, lists of floats, tables, or lists of tables.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, table), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, table: TableOf) -> int:
    given = {table.fields[name]: value for name, value in table.values.items() if value is not None}
    placed = {slot: value if isinstance(value, Byte) else _value(builder, value) for slot, value in given.items()}
    builder.StartObject(max(table.fields.values()) + 1)
    for slot, value in placed.items():
        if isinstance(value, Byte):
            builder.PrependUint8Slot(slot, value.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _value(builder: flatbuffers.Builder, value: Any) -> int:
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, TableOf):
        return _table(builder, value)
    floats = all(isinstance(item, float) for item in value)
    items = list(value) if floats else [_table(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependFloat32(item) if floats else builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


class Read:
    """A table in bytes, whose fields are asked for by name.

    Args:
        table: The place.
        fields: The numbers of its fields.
    """

    def __init__(self, table: Table, fields: dict[str, int]):
        self._table, self._fields = table, fields

    @classmethod
    def root(cls, content: bytes) -> Read:
        """The table of a model.

        Raises:
            ValueError: If these are no metadata.
        """
        if content[4:8] != IDENTIFIER:
            raise ValueError(f"Expected metadata, with {IDENTIFIER!r} as bytes 4 to 8. Received: {content[4:8]!r}")
        start = int.from_bytes(content[:4], "little")
        return cls(Table(bytearray(content), start), MODEL)

    def text(self, name: str) -> str:
        """A text; empty if there is none."""
        offset = self._offset(name)
        return self._table.String(offset + self._table.Pos).decode() if offset else ""

    def byte(self, name: str) -> int:
        """A byte; 0 if there is none."""
        offset = self._offset(name)
        return self._table.Get(number_types.Uint8Flags, offset + self._table.Pos) if offset else 0

    def table(self, name: str, fields: dict[str, int]) -> Read | None:
        """A table within this one."""
        offset = self._offset(name)
        return Read(self._at(self._table.Indirect(offset + self._table.Pos)), fields) if offset else None

    def tables(self, name: str, fields: dict[str, int]) -> Iterator[Read]:
        """The tables of a list."""
        for place in self._places(name):
            yield Read(self._at(self._table.Indirect(place)), fields)

    def floats(self, name: str) -> tuple[float, ...]:
        """The numbers of a list."""
        return tuple(self._table.Get(number_types.Float32Flags, place) for place in self._places(name))

    def _offset(self, name: str) -> int:
        return self._table.Offset(4 + 2 * self._fields[name])

    def _places(self, name: str) -> list[int]:
        offset = self._offset(name)
        if not offset:
            return []
        first = self._table.Vector(offset)
        return [first + 4 * index for index in range(self._table.VectorLen(offset))]

    def _at(self, place: int) -> Table:
        return Table(self._table.Bytes, place)
