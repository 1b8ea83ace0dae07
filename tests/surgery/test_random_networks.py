"""Surgery on random networks, held against brute force."""

import itertools

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from random_networks import check_close, networks, randomise, some, values
from test_boundaries import check_cuts

from tfjointrd import dirac, fold, remove_shortcuts, report, slim
from tfjointrd.report.live_memory import live_bytes
from tfjointrd.surgery import Channels, read_graph
from tfjointrd.surgery.graph import pick, substitute
from tfjointrd.surgery.rules import describe

L, ops = keras.layers, keras.ops
IMAGES = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype("float32")


# === slim ===


def masked(graph, kept, x):
    """The outputs of the full network in which every channel that is not kept is made zero wherever it appears."""
    tensors = {}
    for call in graph.calls:
        source = graph.sources[call.layer]
        if not call.inputs:
            tensors[call.layer, call.number] = x
            continue
        args, kwargs = (
            substitute(part, lambda ref: pick(tensors[ref.layer, ref.call], ref)) for part in (call.args, call.kwargs)
        )
        found = keras.tree.flatten(source(*args, **kwargs))
        for ref in graph.outputs_of(call):
            mask = np.zeros(graph.shapes[ref][-1], "float32")
            mask[kept[ref]] = 1
            found[ref.index] = found[ref.index] * mask
        tensors[call.layer, call.number] = found
    return [ops.convert_to_numpy(pick(tensors[ref.layer, ref.call], ref)) for ref in graph.output_refs()]


def some_channels(graph, rng):
    """Some channels of every layer that can be narrowed, of each part of a split at least one; as a mask at times."""
    channels, wanted = Channels(graph), {}
    for layer in channels.producers():
        if channels.fixed(layer) is None:
            mask = rng.random(channels.width(layer)) < 0.6
            for section in channels.sections(layer):
                mask[rng.choice(section)] = True
            wanted[layer] = mask if rng.random() < 0.5 else np.flatnonzero(mask)
    return wanted


@some(8)
@given(model=networks(), seed=st.integers(0, 99))
def test_slim_computes_what_masks_do(model, seed):
    """But for normalisations that count channels, around which all stay here."""
    randomise(model, seed)
    graph = read_graph(model)
    counted = [call for call in graph.calls if describe(graph.layers[call.layer]).normalizes == "channels"]
    wanted = some_channels(graph, np.random.default_rng(seed))
    channels = Channels(graph)
    roots = {root for call in counted for root in channels.roots(channels.ids[call.output]).tolist()}
    outputs = {call.layer: call.output for call in graph.calls}
    wanted = {
        layer: kept
        for layer, kept in wanted.items()
        if not roots & set(channels.roots(channels.ids[outputs[layer]]).tolist())
    }
    narrow = slim(model, wanted)
    check_close(values(narrow, IMAGES), masked(graph, channels.keep(wanted), IMAGES))
    assert narrow.count_params() <= model.count_params()


# === fold, cuts and live memory ===


@some(4)
@given(model=networks(), seed=st.integers(0, 99))
def test_folded_networks_compute_what_dirac_networks_do(model, seed):
    randomise(model, seed)
    if sum(type(layer) is L.Conv2D for layer in model.layers) < 2:
        return
    student = dirac(model, keep_function=True)
    check_close(values(fold(student), IMAGES), values(student, IMAGES))
    assert all(type(layer).__module__.startswith("keras") for layer in fold(student).layers)


def buffers_alive(graph, sizes):
    """Bytes in memory while each call runs, from a list of buffers and of the tensors that each holds in turn."""
    uses = {ref: [-1] for ref in sizes}
    for index, call in enumerate(graph.calls):
        for ref in call.inputs:
            uses[ref].append(index)
    for ref in graph.output_refs():
        uses[ref].append(len(graph.calls))
    buffers = []  # of (tensor, first step, last step)
    for index, call in enumerate(graph.calls):
        outputs = graph.outputs_of(call)
        over = [
            buffer
            for buffer in buffers
            if len(set(call.inputs)) == len(call.inputs) == 1
            and describe(graph.layers[call.layer]).in_place
            and buffer[-1][0] == call.inputs[0]
            and buffer[-1][2] == index
            and sizes[outputs[0]] == sizes[call.inputs[0]]
        ]
        first = 0 if not call.inputs else index
        for ref in outputs:
            tensor = (ref, first, max(*uses[ref], index))
            over[0].append(tensor) if over else buffers.append([tensor])
    return [
        sum(sizes[buffer[0][0]] for buffer in buffers if any(first <= step <= last for _, first, last in buffer))
        for step in range(len(graph.calls))
    ]


@some(15)
@given(networks())
def test_live_memory_and_cuts(model):
    graph = read_graph(model)
    if any(issubclass(spec.cls, L.ZeroPadding2D) for spec in graph.layers.values()):  # which costs nothing, at times
        return
    sizes = {
        ref: 4 * int(np.prod([n or 1 for n in shape]))
        for call in graph.calls
        for ref, shape in ((ref, graph.shapes[ref]) for ref in graph.outputs_of(call))
    }
    expected = buffers_alive(graph, sizes)
    assert live_bytes(graph, sizes) == expected
    assert [row.live_bytes for row in report.profile(model).layers] == expected


@some(6)
@given(networks())
def test_every_cut_builds_a_network(model):
    check_cuts(read_graph(model).build())  # layers of nested networks are cuts too


# === remove_shortcuts ===


def conv(x, name, size=3, strides=1, filters=4):
    return L.Conv2D(filters, size, strides, padding="same", name=name)(x)


def gated(x, name):
    squeezed = L.Conv2D(2, 1, activation="relu", name=f"{name}_squeeze")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.Multiply(name=f"{name}_scaled")([x, L.Conv2D(4, 1, activation="sigmoid", name=f"{name}_excite")(squeezed)])


def add(tensors, name, operators):
    total, *others = tensors
    if not operators:
        return L.Add(name=name)(tensors) if others else total
    for tensor in others:
        total = total + tensor
    return total


# Block -> function of (tensor, name, whether shortcuts are left out, whether additions are operators).
def identity(x, name, plain, operators):
    branch = conv(L.BatchNormalization(name=f"{name}_bn")(conv(x, f"{name}_a")), f"{name}_b")
    return branch if plain else add([x, branch], f"{name}_add", operators)


def projected(x, name, plain, operators):
    branch = conv(conv(x, f"{name}_a", 3, 2), f"{name}_b")
    return branch if plain else add([branch, conv(x, f"{name}_shortcut", 1, 2)], f"{name}_add", operators)


def excited(x, name, plain, operators):
    branch = gated(conv(conv(x, f"{name}_a"), f"{name}_b"), name)
    return branch if plain else add([x, branch], f"{name}_add", operators)


def excited_shortcut(x, name, plain, operators):
    branch = conv(x, f"{name}_a")
    return branch if plain else add([branch, gated(x, name)], f"{name}_add", operators)


def weighted(x, name, plain, operators):
    branch = 0.5 * conv(x, f"{name}_a")
    return branch if plain else 0.7 * x + branch


def several_branches(x, name, plain, operators):
    """Two alike stay; what is beside them goes."""
    branches = [conv(x, f"{name}_a", 3), conv(x, f"{name}_b", 5)]
    return add(branches if plain else [*branches, x], f"{name}_add", operators)


def deep_branches(x, name, plain, operators):
    branches = [conv(conv(x, f"{name}_a"), f"{name}_b"), conv(conv(conv(x, f"{name}_c"), f"{name}_d"), f"{name}_e")]
    return add(branches, f"{name}_add", operators)


def lateral(x, name, plain, operators):
    """A feature pyramid with a lateral convolution: no shortcut."""
    low = conv(conv(x, f"{name}_down", 3, 2), f"{name}_low")
    return add([conv(x, f"{name}_lateral", 1), L.UpSampling2D(name=f"{name}_up")(low)], f"{name}_add", operators)


def stochastic(x, name, plain, operators):
    branch = conv(x, f"{name}_a")
    if plain:
        return branch
    return add([x, L.Dropout(0.2, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(branch)], f"{name}_add", operators)


def split_shortcut(x, name, plain, operators):
    """Half of the channels goes through a convolution, beside the other half."""
    first, second = ops.split(x, 2, axis=-1)
    branch = conv(first, f"{name}_a", filters=2)
    return conv(branch if plain else branch + second, f"{name}_b")


BLOCKS = [identity, projected, excited, excited_shortcut, weighted, several_branches, deep_branches, lateral]
BLOCKS += [stochastic, split_shortcut]
WITH_SHORTCUTS = {*BLOCKS} - {deep_branches, lateral}


@st.composite
def block_lists(draw):
    blocks = draw(st.lists(st.tuples(st.sampled_from(BLOCKS), st.booleans()), min_size=1, max_size=4))
    return [*blocks, (draw(st.sampled_from(sorted(WITH_SHORTCUTS, key=BLOCKS.index))), False)]


def of_blocks(blocks, plain, size=16):
    inputs = keras.Input((size, size, 3))
    x = conv(inputs, "stem")
    for number, (block, operators) in enumerate(blocks):
        x = block(L.ReLU(name=f"relu{number}")(x), f"block{number}", plain, operators)
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


def same_by_hand(blocks):
    """Removing shortcuts gives what a user gets who writes the network without them."""
    model = of_blocks(blocks, plain=False)
    randomise(model, 1)
    plain, expected = remove_shortcuts(model), of_blocks(blocks, plain=True)
    for layer in expected.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights() if layer.get_weights() else [])
    x = np.random.default_rng(2).normal(size=(2, 16, 16, 3)).astype("float32")
    check_close(values(plain, x), values(expected, x))
    assert len(plain.weights) == len(expected.weights)
    names = {layer.name for layer in model.layers if layer.weights}
    gone = {layer for one in plain.removed for layer in one.layers}
    assert names - {layer.name for layer in plain.layers} == gone & names


@some(6)
@given(block_lists())
def test_networks_without_shortcuts_are_those_written_by_hand(blocks):
    same_by_hand(blocks)


def test_each_block_without_shortcuts():
    """All of them, each also behind another one."""
    for first, second in itertools.pairwise(BLOCKS):
        same_by_hand([(first, False), (second, True), (identity, True)])
