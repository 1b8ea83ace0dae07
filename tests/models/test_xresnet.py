"""The XResNets' stem, shortcuts and start."""

import keras
import numpy as np
import pytest

from tfjointrd import models


def layers_of(model, kind):
    return {layer.name: layer for layer in model.layers if isinstance(layer, kind)}


def test_the_stem_has_three_convolutions():
    model = models.xresnet18(input_shape=(64, 64, 3))
    stem = [layer for name, layer in layers_of(model, keras.layers.Conv2D).items() if name.startswith("stem")]
    assert [(layer.name, layer.filters, layer.strides[0]) for layer in stem] == [
        ("stem_conv1", 32, 2),
        ("stem_conv2", 64, 1),
        ("stem_conv3", 64, 1),
    ]
    assert model.get_layer("stem_pool").output.shape == (None, 16, 16, 64)


def test_shortcuts_pool_where_the_resolution_changes():
    model = models.xresnet50(input_shape=(64, 64, 3))
    assert list(layers_of(model, keras.layers.AveragePooling2D)) == [
        f"stage{stage}_block1_shortcut_pool" for stage in (2, 3, 4)
    ]
    projections = [name for name in layers_of(model, keras.layers.Conv2D) if "shortcut" in name]
    assert projections == [f"stage{stage}_block1_shortcut_conv" for stage in (1, 2, 3, 4)]
    assert all(model.get_layer(name).strides == (1, 1) for name in projections)


@pytest.mark.parametrize(("builder", "last"), [(models.xresnet18, "bn2"), (models.xresnet50, "bn3")])
def test_blocks_start_as_their_shortcuts(builder, last):
    model = builder(input_shape=(32, 32, 3))
    zero = {
        name for name, layer in layers_of(model, keras.layers.BatchNormalization).items() if not np.any(layer.gamma)
    }
    assert zero == {
        name for name in layers_of(model, keras.layers.BatchNormalization) if name.endswith(last) and "stage" in name
    }


def test_blocks_can_start_whole():
    model = models.xresnet18(input_shape=(32, 32, 3), zero_gamma=False)
    assert all(np.all(layer.gamma == 1) for layer in layers_of(model, keras.layers.BatchNormalization).values())


def test_depth_100_has_twice_the_blocks_of_50():
    def blocks(model):
        additions = layers_of(model, keras.layers.Add)
        return [sum(name.startswith(f"stage{stage}_") for name in additions) for stage in (1, 2, 3, 4)]

    fifty, hundred = (blocks(build(input_shape=(32, 32, 3))) for build in (models.xresnet50, models.xresnet100))
    assert fifty == [3, 4, 6, 3]
    assert hundred == [2 * count for count in fifty]


def test_a_saved_network_is_the_same_network(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    model = models.xresnet18(num_classes=5, input_shape=(32, 32, 3), zero_gamma=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(images), model.predict_on_batch(images))


def test_depths_that_do_not_exist():
    with pytest.raises(ValueError, match=r"`depth` to be one of \(18, 34, 50, 100, 101, 152\). Received: depth=20"):
        models.xresnet(20)
