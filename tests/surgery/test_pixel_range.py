"""The range of pixels that a trained network takes, seen by what it recorded in training."""

import keras
import numpy as np
import pytest

from tfjointrd import recalibrate_batchnorm
from tfjointrd.pixel_ranges import PIXEL_RANGES
from tfjointrd.surgery.pixel_range import misfits, says_its_range, with_pixel_range

L = keras.layers


def network(channels=3, *ahead):
    """A network of these layers, a convolution and a batch normalisation."""
    layers = [L.Conv2D(6, 3, use_bias=False), L.BatchNormalization(), L.GlobalAveragePooling2D(), L.Dense(2)]
    return keras.Sequential([keras.Input((8, 8, channels)), *ahead, *layers], name="trained")


def images(channels=3, seed=0):
    """Smooth images of 0 to 255, not all of one brightness."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(20, 235, (64, 1, 1, channels))
    return np.clip(light + rng.normal(0, 20, (64, 8, 8, channels)), 0, 255).astype("float32")


@pytest.mark.parametrize("name", PIXEL_RANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_range_of_the_training_fits_best(name, channels):
    model = network(channels)
    outer = with_pixel_range(model, name)
    recalibrate_batchnorm(outer, images(channels))  # as if it were trained on these
    found = misfits(model, images(channels, seed=1))
    assert min(found, key=found.get) == name and found[name] < 0.5
    assert sorted(found.values())[1] > found[name] + 1
    fit = misfits(outer, images(channels, seed=1))
    assert min(fit, key=fit.get) == "0..255"
    x = images(channels)
    scale, offset = (np.mean(v) if channels == 1 else np.array(v) for v in PIXEL_RANGES[name])
    np.testing.assert_allclose(outer(x), model(x * scale + offset), rtol=1e-3, atol=1e-3)


def test_what_says_it_or_cannot():
    assert misfits(network(), images()) == {}  # has recorded nothing
    assert misfits(keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(2)]), images()) == {}
    adapted = L.Normalization()
    adapted.adapt(images())
    for ahead, says in (
        ([L.Rescaling(1 / 127.5, -1)], True),
        ([L.RandomFlip(), L.Rescaling([1 / 58, 1 / 57, 1 / 57], -2.0)], True),
        ([adapted], True),
        ([L.Rescaling(2.0, -1)], False),
        ([], False),
    ):
        assert says_its_range(network(3, *ahead)) is says
    with pytest.raises(ValueError, match=r"Expected `pixel_range` to be one of \['0..255', .* Received: '0-1'"):
        with_pixel_range(network(), "0-1")
    same = network()
    assert with_pixel_range(same, None) is same and with_pixel_range(same, "0..255") is same
