"""Where networks can be cut, and which layers of teacher and student stand at the same place."""

import keras
import pytest

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
