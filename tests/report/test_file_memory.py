from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfjointrd as jrd
from tfjointrd.export.file_graph import FileGraph, Operator, read_file
from tfjointrd.report.file_memory import bytes_of, memory_of

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


# === Random graphs against a simulation ===


def random_graph(rng: np.random.Generator) -> FileGraph:
    """Operators of one or two inputs, each from any tensor so far; what nobody reads are outputs."""
    sizes, operators, used = [int(rng.integers(1, 40))], [], set()
    for number in range(int(rng.integers(2, 12))):
        taken = rng.choice(len(sizes), size=min(len(sizes), int(rng.integers(1, 3))), replace=False).tolist()
        kind = str(rng.choice(["CONV_2D", "ADD", "MUL", "RESHAPE", "CONCATENATION"]))
        same = kind in ("RESHAPE", "ADD", "MUL") and rng.random() < 0.8
        taken = taken[:1] if kind == "RESHAPE" else taken
        sizes.append(sizes[taken[0]] if same or kind == "RESHAPE" else int(rng.integers(1, 40)))
        operators.append(Operator(kind, tuple(taken), (), (number + 1,), "", (f"layer{number}",)))
        used |= set(taken)
    outputs = tuple(tensor for tensor in range(1, len(sizes)) if tensor not in used)
    shapes = tuple((1, size) for size in sizes)
    return FileGraph(tuple(operators), (0,), outputs, ("FLOAT32",) * len(sizes), (0,) * len(sizes), shapes, ({}, {}))


def simulated(graph: FileGraph, in_place: bool) -> list[int]:
    """Bytes at each operator of a runtime that gives each tensor a buffer, or its input's, and frees it when read."""
    size = [4 * shape[1] for shape in graph.shapes]
    left = [sum(tensor in step.inputs for step in graph.operators) for tensor in range(len(size))]
    readers, pinned = list(left), {*graph.inputs, *graph.outputs}
    buffers, holds, live = {0: size[0]}, {0: 0}, []
    for step in graph.operators:
        (output,) = step.outputs
        own = True
        for tensor in step.inputs if output not in graph.outputs else ():
            same = size[tensor] == size[output] and size[tensor] > 4 and readers[tensor] == 1
            if tensor not in pinned and (step.kind == "RESHAPE" or in_place and step.kind in ("ADD", "MUL") and same):
                holds[output], own = holds[tensor], False
                break
        if own:
            holds[output] = output
            buffers[output] = size[output]
        live.append(sum(buffers.values()))
        for tensor in step.inputs:
            left[tensor] -= 1
        kept = {holds[tensor] for tensor in holds if left[tensor] or tensor in pinned}
        buffers = {buffer: value for buffer, value in buffers.items() if buffer in kept}
    return live


@pytest.mark.parametrize("in_place", [True, False])
def test_random_graphs(in_place):
    rng = np.random.default_rng(0)
    for _ in range(200):
        graph = random_graph(rng)
        memory = memory_of(graph, Path("random.tflite"), in_place)
        assert list(memory.live_bytes) == simulated(graph, in_place)
        assert memory.arena_bytes >= memory.peak_bytes == memory.live_bytes[memory.peak_at]
        for number, one in enumerate(memory.tensors):
            for other in memory.tensors[:number]:
                together = one.first <= other.last and other.first <= one.last
                apart = one.offset >= other.offset + other.bytes or other.offset >= one.offset + one.bytes
                assert apart or not together


# === What LiteRT does ===


def addresses(path):
    """Where LiteRT's own kernels have each tensor that is computed, and the sizes of what they keep for themselves."""
    model, graph = jrd.export.TFLiteModel(path, xnnpack=False), read_file(Path(path).read_bytes())
    model.interpreter.invoke()
    places, scratch = {}, []
    for detail in model.interpreter.get_tensor_details():
        index = detail["index"]
        if index >= len(graph.sizes) or not graph.sizes[index]:
            view = model.interpreter.tensor(index)()
            if index < len(graph.sizes):
                places[index] = (view.ctypes.data, view.nbytes)
            else:
                scratch.append(view.nbytes)
    return graph, places, scratch


def extent(places):
    """Bytes from the first to the last."""
    return max(start + size for start, size in places.values()) - min(start for start, _ in places.values())


@pytest.fixture(scope="module")
def operators(tmp_path_factory):
    """A file of many operators, float32."""
    image = keras.Input((8, 8, 4))
    x = L.MaxPooling2D(1)(image)
    steps = [ops.tanh, ops.exp, ops.sigmoid, ops.negative, ops.hard_silu, lambda x: x - 0.7, ops.abs, ops.square]
    steps += [lambda x: x + 0.3, ops.sqrt, ops.softmax, lambda x: x * x, lambda x: x / (1.5 + ops.abs(x)), ops.elu]
    steps += [lambda x: L.Reshape((4, 16, 4))(x), lambda x: ops.maximum(x, 0.3), L.PReLU(), L.AveragePooling2D(1)]
    for step in steps:
        x = step(x)
    x = L.Dense(8)(L.Flatten()(x))
    return jrd.export.tflite(keras.Model(image, x), tmp_path_factory.mktemp("operators") / "operators.tflite").path


def test_in_place_are_the_operators_that_litert_lets_share(operators):
    graph, places, _ = addresses(operators)
    assert all(size == bytes_of(graph, tensor) for tensor, (_, size) in places.items())
    shared = {
        step.kind
        for step in graph.operators
        if any(places[tensor][0] == places[step.outputs[0]][0] for tensor in step.inputs)
    }
    assert shared == {"ADD", "SUB", "MUL", "DIV", "SOFTMAX", "RESHAPE"}
    assert jrd.report.file_memory(operators).arena_bytes == extent(places)


@pytest.fixture(scope="module")
def pointwise():
    """A network with shortcuts whose kernels need nothing for themselves, and images for it."""
    image = keras.Input((12, 12, 3))
    x = y = L.Conv2D(16, 1, activation="relu")(image)
    for filters in (24, 8):
        y = L.DepthwiseConv2D(3, padding="same", activation="relu")(L.Conv2D(filters, 1)(y))
        y = x = L.Add()([x, L.Conv2D(16, 1)(y)])
    y = L.Concatenate()([x, L.Conv2D(8, 1)(L.MaxPooling2D(3, strides=1, padding="same")(x))])
    images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype("float32")
    return keras.Model(image, L.Dense(5)(L.GlobalAveragePooling2D()(y))), images


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_arena_is_what_litert_allocates(pointwise, quantization, tmp_path):
    network, images = pointwise
    path = tmp_path / "network.tflite"
    jrd.export.tflite(network, path, quantization, representative_data=images, min_agreement=0.0)
    _, places, _ = addresses(path)
    assert extent(places) == jrd.report.file_memory(path).arena_bytes


def test_arena_with_what_kernels_keep(tmp_path):
    path = jrd.export.tflite(jrd.models.cifar_resnet(8, 10, (16, 16, 3)), tmp_path / "resnet8.tflite").path
    _, places, scratch = addresses(path)
    memory, windows = jrd.report.file_memory(path), max(scratch)
    assert windows == 16 * 16 * 9 * 16 * 4  # LiteRT's own kernels write the windows of a 3x3 out as columns
    assert memory.peak_bytes + windows <= extent(places) <= memory.arena_bytes + windows
    assert jrd.report.file_memory(path, in_place=False).peak_bytes >= memory.peak_bytes


def test_shortcut_waits(tmp_path):
    network = jrd.models.cifar_resnet(8, 10, (16, 16, 3))
    files = {}
    for name, one in {"resnet": network, "plain": jrd.remove_shortcuts(network)}.items():
        files[name] = jrd.report.file_memory(jrd.export.tflite(one, tmp_path / f"{name}.tflite").path)
    assert any("stem" in tensor.name for tensor in files["resnet"].tensors if tensor.waits)
    assert not any(tensor.waits for tensor in files["plain"].tensors)
    # A third map of 16 channels in float32: that of the shortcut.
    at_full_size = {}
    for name, one in files.items():
        convolutions = [live for kind, live in zip(one.operators, one.live_bytes, strict=True) if kind == "CONV_2D"]
        at_full_size[name] = max(convolutions[:3])
    assert at_full_size["resnet"] - at_full_size["plain"] == 16 * 16 * 16 * 4
    text = str(files["resnet"])
    assert f"{files['resnet'].peak_bytes:,} bytes of tensors live at once" in text and "which waits" in text


def test_figure(operators, tmp_path):
    memory = jrd.report.file_memory(operators)
    axes = memory.figure(tmp_path / "folder" / "memory.png")
    assert (tmp_path / "folder" / "memory.png").stat().st_size > 10_000
    rectangles = [patch for patch in axes.patches if isinstance(patch, matplotlib.patches.Rectangle)]
    assert sum(patch.get_height() * 1024 for patch in rectangles) == sum(tensor.bytes for tensor in memory.tensors)
    assert len(rectangles) == len(memory.tensors)


def test_runtime_memory(tmp_path):
    files = {}
    for side in (32, 128):
        image = keras.Input((side, side, 32))
        network = keras.Model(image, L.GlobalAveragePooling2D()(L.Conv2D(32, 1)(L.Conv2D(32, 1)(image))))
        files[side] = jrd.export.tflite(network, tmp_path / f"{side}.tflite").path
    tensors = [jrd.report.file_memory(path).arena_bytes for path in files.values()]
    measured = [jrd.report.runtime_memory(path, xnnpack=False) for path in files.values()]
    assert measured[1] - measured[0] == pytest.approx(tensors[1] - tensors[0], rel=0.2)


def test_refuses_what_is_no_file(tmp_path):
    (tmp_path / "text.tflite").write_text("no network in here")
    for ask in (jrd.report.file_memory, jrd.report.runtime_memory):
        with pytest.raises(ValueError, match="TFL3"):
            ask(tmp_path / "text.tflite")
        with pytest.raises(FileNotFoundError, match="none.tflite"):
            ask(tmp_path / "none.tflite")
