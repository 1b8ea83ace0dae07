"""DenseNets: parameters, stems, and that everything before a layer goes into it."""

import keras
import pytest

from tfjointrd import adjoin, models, report


@pytest.mark.parametrize(
    ("depth", "published"),
    [
        (121, 7_978_856),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((169, 14_149_480), (201, 20_013_928))),
    ],
)
def test_parameters(depth, published):
    """As published for the networks of the paper, 1,000 classes."""
    assert report.profile(getattr(models, f"densenet{depth}")()).trainable_parameters == published


def test_multiply_accumulates_by_hand():
    """Stem and first stage of the network for 32 pixels."""
    model = models.densenet121(num_classes=10, input_shape=(32, 32, 3))
    rows = {row.name: row.macs for row in report.profile(model).layers}
    pixels = 32 * 32
    assert rows["stem_conv"] == pixels * 9 * 3 * 64
    for number in range(1, 7):
        assert rows[f"stage1_block{number}_conv1"] == pixels * (64 + 32 * (number - 1)) * 128
        assert rows[f"stage1_block{number}_conv2"] == pixels * 9 * 128 * 32
    assert rows["stage2_transition_conv"] == pixels * 256 * 128
    assert model.get_layer("head_relu").output.shape == (None, 4, 4, 1024)


def test_stems():
    photograph = models.densenet121(num_classes=10, input_shape=(64, 64, 3))
    assert photograph.get_layer("stage1_block1_concat").output.shape == (None, 16, 16, 96)
    small = models.densenet121(num_classes=10, input_shape=(64, 64, 3), stem="cifar")
    assert small.get_layer("stage1_block1_concat").output.shape == (None, 64, 64, 96)
    with pytest.raises(ValueError, match="Expected `stem` to be one of .*Received: stem='mnist'"):
        models.densenet121(stem="mnist")
    with pytest.raises(ValueError, match="Expected `depth` to be one of .121, 169, 201.. Received: depth=264"):
        models.densenet(264)


def test_narrow_from_the_second_stage_on():
    whole = models.densenet121(num_classes=10, input_shape=(32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(whole.get_layer("stage2_block2_concat").output)
    small = adjoin(keras.Model(whole.input, keras.layers.Dense(10)(x)), 4).small()
    filters = {layer.name: layer.filters for layer in small.layers if isinstance(layer, keras.layers.Conv2D)}
    assert filters["stage1_block6_conv2"] == 32 and filters["stage2_transition_conv"] == 32
    assert filters["stage2_block1_conv1"] == 32 and filters["stage2_block1_conv2"] == 8
