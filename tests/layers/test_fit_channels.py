"""Zero channels behind the others."""

import keras
import numpy as np
import pytest

from tfjointrd.layers import FitChannels


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5, 3), (2, 4, 4, 5, 3)])
def test_appends_zeros_behind_the_channels(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = keras.ops.convert_to_numpy(FitChannels(5)(x))
    assert y.shape == (*shape[:-1], 5)
    np.testing.assert_array_equal(y[..., :3], x)
    assert not y[..., 3:].any()


def test_as_many_channels_as_there_are_change_nothing():
    x = np.ones((1, 2, 2, 3), "float32")
    np.testing.assert_array_equal(FitChannels(3)(x), x)


def test_output_shape_with_open_axes():
    assert FitChannels(7).compute_output_shape((None, None, 4, 3)) == (None, None, 4, 7)
    assert FitChannels(7)(keras.Input((None, 4, 3))).shape == (None, None, 4, 7)


def test_computes_in_the_policy_of_the_layer():
    assert keras.backend.standardize_dtype(FitChannels(4, dtype="mixed_float16")(np.ones((1, 3))).dtype) == "float16"


def test_is_made_again_from_its_configuration():
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(FitChannels(6, name="wide")))
    assert (layer.filters, layer.name) == (6, "wide")


@pytest.mark.parametrize("filters", [0, -1, 2.0, True, None])
def test_filters_must_be_a_positive_integer(filters):
    with pytest.raises(ValueError, match=r"Expected `filters` of layer 'pad'.*Received: filters="):
        FitChannels(filters, name="pad")


def test_cuts_the_last_channels_off():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(FitChannels(2)(x)), x[..., :2])
