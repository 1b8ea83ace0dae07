"""What outputs are is seen from what comes out, whatever layers make it."""

import keras
import pytest

from tfjointrd.surgery.output_activation import final_activation
from tfjointrd.surgery.tasks import kind_of_loss, tasks_of

L, ops = keras.layers, keras.ops
IMAGE = keras.Input((8, 8, 3))


def network(units=4, activation=None):
    inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, L.Dense(units, activation=activation)(x))(IMAGE)


def logits():
    return network()


def two():
    return network(activation="softmax"), network(activation="softmax")


def by_hand(z):
    return ops.exp(z) / ops.sum(ops.exp(z), axis=-1, keepdims=True)


@keras.saving.register_keras_serializable(package="test_endings")
def sparsemax(z):
    """Martins and Astudillo (2016), Eqn 3 to 5. Keras' own is another function: its sums are not 1."""
    ordered = ops.flip(ops.sort(z, axis=-1), axis=-1)
    above = ops.cumsum(ordered, axis=-1) - 1
    return ops.relu(z - ops.max(above / ops.arange(1, z.shape[-1] + 1, dtype=z.dtype), axis=-1, keepdims=True))


ENDINGS = {
    "mean of two networks": (lambda: L.Average()(two()), "softmax"),
    "half of a sum": (lambda: sum(two()) / 2, "softmax"),
    "weighted": (lambda: 0.3 * two()[0] + 0.7 * two()[1], "softmax"),
    "stacked": (lambda: ops.mean(ops.stack(two(), axis=1), axis=1), "softmax"),
    "rescaled": (lambda: L.Rescaling(0.5)(L.Add()(two())), "softmax"),
    "sparsemax": (lambda: network(activation=sparsemax), "softmax"),
    "with a temperature": (lambda: ops.softmax(logits() / 3), "softmax"),
    "by hand": (lambda: by_hand(logits()), "softmax"),
    "dropped": (lambda: L.Dropout(0.5)(network(activation="softmax")), "softmax"),
    "in half precision": (lambda: L.Softmax(dtype="bfloat16")(logits()), "softmax"),
    "a map": (lambda: L.Softmax()(L.UpSampling2D()(L.Conv2D(3, 1)(IMAGE))), "softmax"),
    "row by row": (lambda: L.TimeDistributed(L.Dense(4, activation="softmax"))(IMAGE), "softmax"),
    "mean over a map": (lambda: L.GlobalAveragePooling2D()(L.Conv2D(4, 1, activation="softmax")(IMAGE)), "softmax"),
    "sigmoids": (lambda: L.Average()([network(3, "sigmoid"), network(3, "sigmoid")]), "sigmoid"),
    "hard sigmoid": (lambda: network(1, "hard_sigmoid"), "sigmoid"),
    "sum": (lambda: L.Add()(two()), "unnormalized"),
    "logits": (logits, None),
    "mean of logits": (lambda: L.Average()([logits(), logits()]), None),
    "logarithms": (lambda: ops.log(network(activation="softmax")), None),
    "log softmax": (lambda: ops.log_softmax(logits()), None),
    "gated": (lambda: logits() * ops.sigmoid(logits()), None),
    "relu": (lambda: L.ReLU()(logits()), None),
    "tanh": (lambda: network(activation="tanh"), None),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(name):
    make, ending = ENDINGS[name]
    assert final_activation(keras.Model(IMAGE, make())) == ending


def test_the_sparsemax_of_keras():
    network = keras.Sequential([IMAGE, L.Flatten(), L.Dense(4, activation="sparsemax")])
    if final_activation(network) == "softmax":
        assert tasks_of(network)[0].kind == "classes"
    else:  # Keras 3.15: sparsemax([2, 1.5, 0.1, -1]) is zero
        with pytest.warns(UserWarning, match="Keras' sparsemax, whose sums .* are not 1"):
            assert tasks_of(network)[0].kind is None


def test_images_of_any_size():
    inputs = keras.Input((None, None, 3))
    assert final_activation(keras.Model(inputs, L.Softmax()(L.UpSampling2D()(L.Conv2D(5, 1)(inputs))))) == "softmax"


def test_outputs_that_cannot_be_meant():
    with pytest.raises(ValueError, match="sum is 1. Received: .* Take the mean of several softmaxes instead"):
        tasks_of(keras.Model(IMAGE, L.Add()(two())))
    with pytest.raises(ValueError, match="a softmax of one channel, which is always 1. Use a sigmoid"):
        tasks_of(keras.Model(IMAGE, network(1, "softmax")))


class Own(keras.losses.BinaryCrossentropy):
    pass


@pytest.mark.parametrize(
    "loss, kind",
    [
        ("sparse_categorical_crossentropy", "classes"),
        (keras.losses.CategoricalFocalCrossentropy(), "classes"),
        (keras.losses.KLDivergence(), "classes"),
        (keras.losses.binary_crossentropy, "binary"),
        (Own(), "binary"),
        *((name, "numbers") for name in ("mse", "mae", "huber", "poisson", "log_cosh")),
        (keras.losses.LogCosh(), "numbers"),
        (keras.losses.Dice(), None),
        (lambda y, p: 0, None),
    ],
)
def test_kinds_of_losses(loss, kind):
    assert kind_of_loss(loss) == kind
