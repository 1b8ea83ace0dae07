"""Where networks can be cut, and which layers of teacher and student stand at the same place."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfjointrd import models, remove_shortcuts
from tfjointrd.surgery.boundaries import cuts, stage_boundaries
from tfjointrd.surgery.graph import Ref
from tfjointrd.surgery.read_graph import read_graph

L = keras.layers


def found(teacher, student=None):
    return stage_boundaries(read_graph(teacher), read_graph(student or remove_shortcuts(teacher)))


def pre_activation(widths=(4, 8, 12), name="pre", student=False, operators=False):
    """Blocks whose addition ends them; each begins with its batch normalisation, as in ResNet v2."""
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(widths[0], 3, padding="same", name="stem")(inputs)
    for stage, filters in enumerate(widths, 1):
        for block in (1, 2):
            prefix, strides = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            y = L.ReLU(name=f"{prefix}_relu")(L.BatchNormalization(name=f"{prefix}_bn")(x))
            shortcut = L.Conv2D(filters, 1, strides, name=f"{prefix}_shortcut")(x) if strides > 1 and not student else x
            y = L.Conv2D(filters, 3, strides, padding="same", name=f"{prefix}_conv1")(y)
            y = L.Conv2D(filters, 3, padding="same", name=f"{prefix}_conv2")(y)
            if not student:
                y = shortcut + y if operators else L.Add(name=f"{prefix}_out")([shortcut, y])
            x = y
    x = L.ReLU(name="last_relu")(L.BatchNormalization(name="last_bn")(x))
    return keras.Model(inputs, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(x)), name=name)


def test_cuts_lie_between_blocks(residual):
    graph = read_graph(residual)
    _, *others = (call.layer for call in graph.calls if call.layer.startswith("conv2d"))
    within = {"projection", *others}
    assert "end" in cuts(graph) and not within & set(cuts(graph))
    assert graph.single_output().layer not in cuts(graph)  # nothing would follow


def test_a_layer_called_twice_is_no_cut():
    inputs = keras.Input((8, 8, 4))
    twice = L.Conv2D(4, 3, padding="same", name="twice")
    model = keras.Model(inputs, L.Conv2D(4, 1)(twice(L.ReLU(name="between")(twice(inputs)))))
    assert "between" in cuts(read_graph(model)) and "twice" not in cuts(read_graph(model))


PARTNERS = [(f"stage{stage}_block2_conv2", f"stage{stage}_block2_out") for stage in (1, 2)]


def test_additions_have_the_last_convolution_as_partner():
    """An addition that ends a block is matched through the batch normalisation that takes it."""
    teacher = pre_activation()
    assert found(teacher) == PARTNERS
    assert found(teacher, pre_activation((2, 4, 6), student=True)) == PARTNERS  # whatever its widths


def test_operators_have_partners_too():
    teacher = pre_activation(operators=True)
    operators = [call.layer for call in read_graph(teacher).calls if call.layer.startswith("add")]
    assert len(operators) == 6
    for student in (remove_shortcuts(teacher), pre_activation(student=True)):
        assert found(teacher, student) == [(PARTNERS[0][0], operators[1]), (PARTNERS[1][0], operators[3])]


def test_projections_that_stay():
    """What the student's addition and its main branch take alike is still one tensor."""
    teacher = pre_activation()
    assert found(teacher, remove_shortcuts(teacher, keep_projections=True)) == PARTNERS


def test_own_network(residual):
    """Its first block ends in the operator `keras.ops.relu`, which the student has under the same name."""
    ((student, teacher),) = found(residual)
    assert student == teacher and read_graph(residual).shapes[Ref(teacher)] == (None, 16, 16, 8)
    assert read_graph(residual).layers[teacher].cls.__name__ == "Relu"


@pytest.mark.parametrize("strides, expected", [(1, [("left_in", "join")]), (2, [])])
def test_a_partner_has_the_same_resolution(strides, expected):
    assert found(forked(), forked(strides=strides, student=True)) == expected


def test_a_partner_is_one_tensor():
    """Two that the followers take in the student are none, so that an earlier cut is the boundary."""
    assert found(forked(), forked(student=True, second=True)) == [("student_stem", "stem")]


def forked(strides=1, student=False, second=False):
    """An addition taken by two convolutions; in the student they take `left_in`, or the second one another tensor."""
    inputs = keras.Input((16, 16, 3))
    stem = L.Conv2D(4, 3, strides, padding="same", name="student_stem" if student else "stem")(inputs)
    x = left = L.Conv2D(4, 3, padding="same", name="left_in")(stem)
    if not student:
        x = left = L.Add(name="join")([stem, x])
    if second:
        x = L.ReLU(name="other")(left)
    y = L.Conv2D(8, 3, 2, padding="same", name="left")(left)
    y = L.Add(name="end")([y, L.Conv2D(8, 1, 2, name="right")(x)])
    return keras.Model(inputs, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(y)))


def test_pairs_stand_in_network_order():
    """Also where a resolution returns, as after upsampling."""
    inputs = keras.Input((16, 16, 4))

    def block(x, name):
        y = L.Conv2D(4, 3, padding="same", name=f"{name}_conv")(x)
        return L.ReLU(name=name)(L.Add(name=f"{name}_add")([x, y]))

    x = block(inputs, "wide")
    x = block(L.MaxPooling2D(name="down")(x), "narrow")
    x = block(L.UpSampling2D(name="up")(x), "wide_again")
    x = block(L.MaxPooling2D(4, name="far_down")(x), "last")
    teacher = keras.Model(inputs, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(x)))
    assert found(teacher) == [("narrow", "narrow"), ("wide_again", "wide_again")]


def test_plain_and_unlike_networks_have_none(residual):
    assert found(remove_shortcuts(residual), remove_shortcuts(residual)) == []
    assert found(residual, models.resnet20(num_classes=5, input_shape=(16, 16, 3))) == []


def test_efficientnet():
    """Where the first layers of a block have no skip of their own, the boundary lies within that block."""
    teacher = keras.applications.EfficientNetV2B0(weights=None, input_shape=(64, 64, 3), classes=3)
    expected = [("block2b_project_bn", "block2b_add")]
    assert found(teacher) == expected + [(f"block{i}a_expand_activation",) * 2 for i in (4, 6)]


# === Operators with several outputs ===


def chunked(kind):
    """Networks that split a tensor: half of it bypasses the rest, or is all that the rest takes."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    first, second = keras.ops.split(x, 2, axis=-1)
    y = L.Conv2D(4, 3, padding="same", name="within")(L.ReLU(name="relu")(first))
    y = {"bypass": y + second, "second": second * 2.0, "concatenate": L.Concatenate()([y, second])}[kind]
    y = L.Conv2D(4, 3, padding="same", name="behind")(y)
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D(name="pool")(y)), name=kind)


@pytest.mark.parametrize("kind", ["bypass", "second", "concatenate"])
def test_branches_of_a_split_are_no_cuts(kind):
    model = chunked(kind)
    found = cuts(read_graph(model))
    assert {"stem", "behind", "pool"} <= set(found) and not {"within", "relu", "split"} & set(found)
    check_cuts(model)


def check_cuts(model):
    """What follows each cut is a network of its own, which computes the same."""
    x = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:])).astype("float32")
    operations = {operation.name: operation for operation in model.operations}
    images = [x] * len(model.inputs)
    for name in cuts(read_graph(model)):
        tensor = keras.tree.flatten(operations[name].output)[0]
        ahead, behind = keras.Model(model.inputs, tensor), keras.Model(tensor, model.outputs)
        for ours, theirs in zip(*(keras.tree.flatten(y) for y in (behind(ahead(images)), model(images))), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_several_inputs_are_there_from_the_start():
    """The second input is taken behind the first branch, so that no cut lies within it."""
    first, second = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    x = L.Conv2D(4, 1, name="first_only")(first)
    x = L.Add(name="met")([x, L.Conv2D(4, 1, name="second_only")(second)])
    model = keras.Model([first, second], L.ReLU(name="end")(L.Conv2D(4, 1, name="last")(x)))
    assert cuts(read_graph(model)) == ["met", "last"]


def test_an_output_within_ends_the_cuts():
    inputs = keras.Input((8, 8, 4))
    early = L.Conv2D(4, 1, name="early")(inputs)
    late = L.Conv2D(4, 1, name="late")(L.ReLU(name="between")(early))
    model = keras.Model(inputs, [early, L.ReLU(name="end")(late)])
    assert cuts(read_graph(model)) == [model.layers[0].name]


@st.composite
def random_graphs(draw):
    """Networks of convolutions, splits and merges of any tensors made before, with one or two inputs and outputs."""
    inputs = [keras.Input((4, 4, 4)) for _ in range(draw(st.integers(1, 2)))]
    tensors = list(inputs)
    for _ in range(draw(st.integers(2, 8))):
        kind = draw(st.sampled_from(["convolution", "relu", "split", "unstack", "add", "concatenate", "last"]))
        x = tensors[-1] if kind == "last" else draw(st.sampled_from(tensors))
        if kind in ("convolution", "last"):
            tensors.append(L.Conv2D(4, 1)(x))
        elif kind == "relu":
            tensors.append(keras.ops.relu(x))
        elif kind == "split":
            tensors.extend(keras.ops.split(x, 2, axis=-1) if x.shape[-1] % 2 == 0 else [L.ReLU()(x)])
        elif kind == "unstack":
            parts = keras.ops.array_split(x, 3, axis=1)
            tensors.append(
                draw(st.sampled_from([keras.ops.concatenate(parts[:2], 1), keras.ops.concatenate(parts, 1)]))
            )
        else:
            others = [tensor for tensor in tensors if tensor.shape == x.shape]
            other = draw(st.sampled_from(others))
            tensors.append(x + other if kind == "add" else keras.ops.concatenate([x, other], axis=-1))
    outputs = [tensors[-1]]
    if draw(st.booleans()):
        outputs.append(draw(st.sampled_from([tensor for tensor in tensors if tensor not in inputs] or outputs)))
    return keras.Model(inputs, outputs) if outputs[0] is not outputs[-1] else keras.Model(inputs, outputs[:1])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_graphs())
def test_every_cut_builds_a_network(model):
    check_cuts(model)
    graph = read_graph(model)
    ancestors = graph.ancestors()
    for call in graph.calls:
        for ref in call.inputs:
            assert ancestors[ref] <= ancestors[call.output]
