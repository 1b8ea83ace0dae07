import json

import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers.adjoined import (
    AdjoinedBatchNormalization,
    AdjoinedConv2D,
    AdjoinedDense,
    AdjoinedDepthwiseConv2D,
    TakeChannels,
    take,
)

PAIRED = [
    AdjoinedConv2D(6, 3, small_inputs=[0, 3], small_outputs=3, kernel_regularizer="l2", name="conv"),
    AdjoinedDepthwiseConv2D(3, small_inputs=2, name="depthwise"),
    AdjoinedDense(6, small_inputs=2, small_outputs=[1, 2], name="dense"),
    AdjoinedBatchNormalization(2, momentum=0.8, epsilon=1e-4, name="bn"),
]


@pytest.mark.parametrize("layer", PAIRED, ids=lambda layer: layer.name)
def test_config_round_trip(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    inputs = [keras.random.normal((2, 5, 5, 4)), keras.random.normal((2, 5, 5, 2))]
    for expected, shape in zip(layer(inputs), layer.compute_output_shape([x.shape for x in inputs]), strict=True):
        assert expected.shape == shape
    again(inputs)
    again.set_weights(layer.get_weights())
    for ours, theirs in zip(again(inputs), layer(inputs), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_regulariser_counts_the_shared_kernel_once():
    layer = AdjoinedConv2D(4, 1, small_inputs=2, small_outputs=2, kernel_regularizer=keras.regularizers.L2(1.0))
    layer([ops.ones((1, 2, 2, 4)), ops.ones((1, 2, 2, 2))])
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(sum(layer.losses)), np.sum(kernel**2), rtol=1e-5)


def test_batch_normalisations_keep_separate_statistics():
    layer = AdjoinedBatchNormalization(2, momentum=0.0)
    rng = np.random.default_rng(0)
    full, small = rng.normal(3, 2, (16, 4, 4, 4)).astype("float32"), rng.normal(-1, 5, (16, 4, 4, 2)).astype("float32")
    outputs = layer([full, small], training=True)
    for path, x, z in zip((layer.full, layer.small), (full, small), outputs, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(path.moving_mean), x.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(ops.convert_to_numpy(path.moving_variance), x.var((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(ops.convert_to_numpy(z).mean((0, 1, 2)), 0, atol=1e-4)


def test_take_channels():
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, 2)), x[..., :2])
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, [0, 3])), x[..., [0, 3]])
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, [1], axis=1)), x[:, [1]])
    assert take(x, 4) is x
    layer = TakeChannels.from_config(TakeChannels([1, 2]).get_config())
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x[..., 1:3])
    assert layer.compute_output_shape((None, 3, 4)) == (None, 3, 2)


@pytest.mark.parametrize("keep", [0, -1, True, None, [], [2, 1], [1, 1], [-1, 2], 7, [0, 6]])
def test_channels_that_cannot_be_kept(keep):
    with pytest.raises(ValueError, match=r"`small_outputs` of layer 'c'.*Received: small_outputs="):
        AdjoinedConv2D(6, 3, small_inputs=2, small_outputs=keep, name="c")


def test_pairs_are_checked():
    layer = AdjoinedConv2D(6, 3, small_inputs=2, small_outputs=3, name="c")
    with pytest.raises(ValueError, match="'c' expects the pair"):
        layer.build((2, 5, 5, 4))
    with pytest.raises(ValueError, match="'c' expects x_small with 2 channels"):
        layer.build([(2, 5, 5, 4), (2, 5, 5, 3)])
    with pytest.raises(ValueError, match="'b' expects x_small with 2 channels"):
        AdjoinedBatchNormalization(2, name="b").build([(2, 4), (2, 3)])
    with pytest.raises(ValueError, match="channels_last"):
        AdjoinedConv2D(6, 3, small_inputs=2, small_outputs=3, data_format="channels_first")
    with pytest.raises(ValueError, match="of 2 channels"):
        TakeChannels(3).build((None, 2))
