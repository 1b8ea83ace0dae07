"""What a network costs: parameters, multiply-accumulates and live memory, by layer and in total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from tfjointrd.report.live_memory import live_bytes
from tfjointrd.surgery.graph import Call, Graph, Ref, substitute
from tfjointrd.surgery.macs import layer_macs
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules.counters import is_kernel, weight_sizes


@dataclass(frozen=True)
class LayerProfile:
    """What one call of a layer costs.

    Attributes:
        name: The layer's name.
        class_name: Its class.
        output_shape: Shape of its output, batch axis included; a tuple of shapes where there are several.
        parameters: Number of weights. A layer that is called again counts its weights at its first call only.
        trainable_parameters: Those of them that training changes.
        kernel_parameters: Those of them in kernels of convolutions and dense layers.
        macs: Multiply-accumulates; `None` where they are not known.
        output_bytes: Bytes of its output.
        live_bytes: Bytes of all tensors that have to be in memory while it runs.
    """

    name: str
    class_name: str
    output_shape: tuple
    parameters: int
    trainable_parameters: int
    kernel_parameters: int
    macs: int | None
    output_bytes: int
    live_bytes: int


@dataclass(frozen=True, repr=False)
class Profile:
    """What a network costs. Shown in a notebook or printed, it is one line; `table()` has the layers.

    Attributes:
        name: The network's name.
        batch_size: Number of images that MACs and bytes are for.
        layers: A `LayerProfile` for each call of a layer, in the order in which they run.
    """

    name: str
    batch_size: int
    layers: tuple[LayerProfile, ...]

    def __repr__(self) -> str:
        """The totals, without the layers."""
        totals = f"parameters={self.parameters}, macs={self.macs}, peak_activation_bytes={self.peak_activation_bytes}"
        return f"Profile(name={self.name!r}, batch_size={self.batch_size}, {totals}, {len(self.layers)} layers)"

    @property
    def parameters(self) -> int:
        """Number of all weights."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        """Number of weights that training changes."""
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def kernel_parameters(self) -> int:
        """Number of weights in kernels of convolutions and dense layers, the count that papers state."""
        return sum(layer.kernel_parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers whose MACs are known; see `uncounted`."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the layers whose MACs are not known."""
        return tuple(dict.fromkeys(layer.name for layer in self.layers if layer.macs is None))

    @property
    def peak_activation_bytes(self) -> int:
        """The most bytes of tensors that are in memory at once. Weights are not among them."""
        return max(layer.live_bytes for layer in self.layers)

    @property
    def peak_layer(self) -> str:
        """Name of the first layer at which that many are."""
        return max(self.layers, key=lambda layer: layer.live_bytes).name

    def to_dict(self) -> dict[str, Any]:
        """Totals and layers as plain dicts, lists, strings and numbers."""
        totals = (
            "name batch_size parameters trainable_parameters kernel_parameters macs peak_activation_bytes peak_layer"
        )
        return {
            **{key: getattr(self, key) for key in totals.split()},
            "uncounted": list(self.uncounted),
            "layers": [{**asdict(layer), "output_shape": _listed(layer.output_shape)} for layer in self.layers],
        }

    def table(self) -> str:
        """The costs as aligned text: a line for each layer, then the totals."""
        header = ("Layer", "Class", "Output", "Parameters", "MACs", "Output KiB", "Live KiB")
        rows = [_row(layer) for layer in self.layers]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        lines = [_aligned(row, widths) for row in (header, *rows)]
        return "\n".join([self.name, rule, lines[0], rule, *lines[1:], rule, *self._totals()])

    def _totals(self) -> list[str]:
        mebibytes = self.peak_activation_bytes / 2**20
        totals = [
            ("Parameters", f"{self.parameters:,}"),
            ("  trainable", f"{self.trainable_parameters:,}"),
            ("  in kernels", f"{self.kernel_parameters:,}"),
            ("MACs", f"{self.macs:,}"),
            ("Peak live activations", f"{mebibytes:.3f} MiB at '{self.peak_layer}', batch {self.batch_size}"),
        ]
        if self.uncounted:
            totals.append(("Not in MACs", f"{', '.join(self.uncounted)} (unknown; see report.register_macs)"))
        return [f"{label:<23}{value}" for label, value in totals]


def profile(model: keras.Model, batch_size: int = 1) -> Profile:
    """Counts what a network costs, without running it.

    Args:
        model: A functional or built Sequential `keras.Model`, nested ones included, with known image size.
        batch_size: Number of images that MACs and bytes are for, where the network leaves it open.

    Returns:
        A `Profile`. MACs count one for each kernel weight and position, as papers do. Bytes are those of the layers'
        compute dtypes; live memory follows from the lifetimes of the tensors, with batch normalisation, activations
        and reshapes in place.

    Raises:
        ValueError: If the network is not functional, has an axis of unknown size, or `batch_size` is not a positive
            integer.

    Example:

    >>> costs = profile(tfjointrd.models.resnet20())
    >>> costs.kernel_parameters, costs.macs, costs.peak_activation_bytes
    (270896, 40813184, 196608)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be a positive integer. Received: batch_size={batch_size!r}")
    graph = read_graph(model)
    shapes = _known_shapes(graph, batch_size)
    itemsizes = _itemsizes(graph)
    sizes = {ref: math.prod(shape) * itemsizes[ref.layer, ref.call] for ref, shape in shapes.items()}
    live = live_bytes(graph, sizes)
    counted: set[int] = set()
    rows = [
        _layer_profile(graph, call, graph.outputs_of(call), shapes, sizes, bytes_, counted)
        for call, bytes_ in zip(graph.calls, live, strict=True)
    ]
    return Profile(graph.name, batch_size, tuple(rows))


def summary(model: keras.Model, batch_size: int = 1) -> Profile:
    """Prints what a network costs as a table, and returns it as data.

    Args:
        model: A functional or built Sequential `keras.Model` with known image size.
        batch_size: Number of images that MACs and bytes are for, where the network leaves it open.

    Returns:
        The `Profile`, as from `profile()`.

    Raises:
        ValueError: As `profile()`.

    Example:

    >>> costs = summary(tfjointrd.models.resnet20())
    resnet20
    ...
    Layer                        Class                   Output      Parameters       MACs  Output KiB  Live KiB
    ...
    """
    costs = profile(model, batch_size)
    print(costs.table())
    return costs


def _known_shapes(graph: Graph, batch_size: int) -> dict[Ref, tuple[int, ...]]:
    graph.check_sizes("for its costs to be counted")
    return {ref: tuple(batch_size if size is None else size for size in shape) for ref, shape in graph.shapes.items()}


def _itemsizes(graph: Graph) -> dict[tuple[str, int], int]:
    """Bytes of one element of each call's output."""
    dtypes: dict[tuple[str, int], str] = {}

    def symbolic(ref: Ref) -> keras.KerasTensor:
        return keras.KerasTensor(graph.shapes[ref], dtypes[ref.layer, ref.call])

    for call in graph.calls:
        source = graph.sources[call.layer]
        if isinstance(source, keras.layers.InputLayer):
            dtype = source.dtype
        elif isinstance(source, keras.Layer) or not call.inputs:
            dtype = getattr(source, "compute_dtype", keras.config.floatx())
        else:  # an operator, such as a cast or a comparison, has a type that depends on what it takes
            args, kwargs = (substitute(part, symbolic) for part in (call.args, call.kwargs))
            dtype = keras.tree.flatten(source.compute_output_spec(*args, **kwargs))[0].dtype
        dtypes[call.layer, call.number] = dtype
    return {key: _itemsize(dtype) for key, dtype in dtypes.items()}


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _layer_profile(
    graph: Graph,
    call: Call,
    outputs: list[Ref],
    shapes: Mapping[Ref, tuple],
    sizes: Mapping[Ref, int],
    live: int,
    counted: set[int],
) -> LayerProfile:
    """The costs of a call; weights in `counted` are those of a layer before, by which this one computes too."""
    layer = graph.sources[call.layer]
    output_shapes = [shapes[ref] for ref in outputs]
    first = call.number == 0
    sizes_of_weights = [(w, size) for w, size in weight_sizes(layer) if id(w) not in counted] if first else []
    counted.update(id(weight) for weight, _ in sizes_of_weights)
    trained = {id(weight) for weight in getattr(layer, "trainable_weights", ())}
    return LayerProfile(
        name=call.layer,
        class_name=graph.layers[call.layer].cls.__name__,
        output_shape=output_shapes[0] if len(output_shapes) == 1 else tuple(output_shapes),
        parameters=sum(size for _, size in sizes_of_weights),
        trainable_parameters=sum(size for weight, size in sizes_of_weights if id(weight) in trained),
        kernel_parameters=sum(size for weight, size in sizes_of_weights if is_kernel(weight.name)),
        macs=layer_macs(layer, [shapes[ref] for ref in call.inputs], output_shapes),
        output_bytes=sum(sizes[ref] for ref in outputs),
        live_bytes=live,
    )


def _listed(value):
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _row(layer: LayerProfile) -> tuple[str, ...]:
    shapes = layer.output_shape if isinstance(layer.output_shape[0], tuple) else (layer.output_shape,)
    return (
        layer.name,
        layer.class_name,
        ", ".join("x".join(map(str, shape)) for shape in shapes),
        f"{layer.parameters:,}",
        "unknown" if layer.macs is None else f"{layer.macs:,}",
        f"{layer.output_bytes / 1024:,.1f}",
        f"{layer.live_bytes / 1024:,.1f}",
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Text to the left, numbers to the right."""
    cells = [f"{cell:<{width}}" for cell, width in zip(row[:3], widths[:3], strict=True)]
    cells += [f"{cell:>{width}}" for cell, width in zip(row[3:], widths[3:], strict=True)]
    return "  ".join(cells)
