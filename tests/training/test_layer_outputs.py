"""Tensors between a network's layers, by the layers' names."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin
from tfjointrd.surgery.graph import Ref
from tfjointrd.training.methods.layer_outputs import LayerOutputs

WANTED = [Ref("anything within")]


def values(outputs, names, x):
    (image,) = outputs.inputs
    found = keras.Model(image, {name: outputs(Ref(name)) for name in names})(x)
    return [keras.ops.convert_to_numpy(found[name]) for name in names]


def test_layers_that_were_called_before(images):
    """Once for another network, once on this one's own input; of two calls in the network, the first one counts."""
    x, _ = images
    conv = keras.layers.Conv2D(1, 3, padding="same", name="conv")
    other = keras.Input((8, 8, 1))
    keras.Model(other, conv(other))
    image = keras.Input((8, 8, 1))
    conv(image)
    first = conv(keras.layers.Rescaling(2.0, name="scaled")(image))
    network = keras.Model(image, keras.layers.Flatten()(conv(first)))
    scaled, once = values(LayerOutputs(network, WANTED), ["scaled", "conv"], x)
    np.testing.assert_allclose(scaled, 2 * x, rtol=1e-6)
    np.testing.assert_allclose(once, keras.ops.convert_to_numpy(conv(2 * x)), rtol=1e-5, atol=1e-5)
    assert LayerOutputs(network, WANTED).layer("conv") is conv


def test_sub_models_are_written_out(images, tiny):
    x, _ = images
    inner = tiny()
    image = keras.Input((8, 8, 1))
    network = keras.Model(image, inner(image))
    (relu,) = values(LayerOutputs(network, WANTED), ["stage1_relu"], x)
    expected = keras.Model(inner.input, inner.get_layer("stage1_relu").output)(x)
    np.testing.assert_allclose(relu, keras.ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-5)
    other = keras.models.clone_model(tiny())
    other.name = "other"
    with pytest.raises(ValueError, match="Expected sub-models of 'twice' whose layers have names of their own"):
        LayerOutputs(keras.Model(image, inner(image) + other(image), name="twice"), WANTED)


def test_adjoined_networks_give_the_full_path(images, tiny):
    x, _ = images
    pair = adjoin(tiny(filters=8), 2, round_to=1)
    outputs = LayerOutputs(pair.network, WANTED)
    (relu,) = values(outputs, ["stage2_relu"], x)
    full = pair.full()
    expected = keras.Model(full.input, full.get_layer("stage2_relu").output)(x)
    np.testing.assert_allclose(relu, keras.ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-5)
    found = keras.Model(outputs.inputs[0], outputs.output)(x)
    for key, value in pair.network(x).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)


def test_the_whole_is_the_network(tiny):
    network = tiny()
    outputs = LayerOutputs(network, [])
    assert outputs.inputs is network.inputs and outputs.output is network.output
