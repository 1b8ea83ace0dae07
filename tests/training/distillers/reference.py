"""How a loss is held against numpy: its value for each image, and its gradient, by central differences in float64."""

from types import SimpleNamespace

import keras
import numpy as np

from tfjointrd.surgery.tasks import Task

RNG = np.random.default_rng(7)


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def maps(*shape):
    return RNG.normal(size=shape)


def same_as(loss, reference, *arrays, rtol=2e-3, step=1e-5):
    """Holds `loss(*tensors) -> (batch,)` against `reference(*arrays)`, and the gradients of a weighted sum of it.

    The gradients are those of the first array, which is the student's.
    """
    values = reference(*arrays)
    floats = [array.astype("float32") for array in arrays]
    np.testing.assert_allclose(numpy(loss(*floats)), values, rtol=1e-4, atol=1e-6)
    weights = np.linspace(0.5, 2, len(values))
    expected = np.zeros_like(arrays[0])
    for index in np.ndindex(*expected.shape):
        moved = [arrays[0].copy(), arrays[0].copy()]
        moved[0][index] += step
        moved[1][index] -= step
        expected[index] = np.sum(weights * (reference(moved[0], *arrays[1:]) - reference(moved[1], *arrays[1:])))
    expected /= 2 * step
    found = gradient(lambda own: keras.ops.sum(weights.astype("float32") * loss(own, *floats[1:])), floats[0])
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
    assert np.abs(expected).max() > 0


def gradient(function, array):
    if keras.backend.backend() == "jax":
        import jax

        return numpy(jax.grad(function)(array))
    import tensorflow as tf

    tensor = tf.convert_to_tensor(array)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        loss = function(tensor)
    return numpy(tape.gradient(loss, tensor))


def built(method, student, teacher):
    """A method with its layers, for tensors of these shapes, whose random weights are the same everywhere."""
    method.build([(None, *shape) for shape in student], [(None, *shape) for shape in teacher])
    rng = np.random.default_rng(3)
    for variable in method.trainable_variables:
        variable.assign(variable.value + 0.3 * rng.normal(size=variable.shape))
    return method


def of_outputs(method, classes, ending=None):
    """A method that compares one output of so many classes."""
    task = Task("scores", (None, classes), ending, kind="classes" if classes > 1 else "binary")
    pairs = SimpleNamespace(student=SimpleNamespace(tasks=[task]), endings={"teacher": [ending]})
    method.attach(pairs, None)
    return method


# === Layers in numpy ===


def weights_of(layers):
    return [value.astype("float64") for value in layers.get_weights()]


def conv(x, kernel, bias=0.0):
    """A convolution with padding "same" and stride 1."""
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = x.shape[1:3]
    parts = (padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(size) for j in range(size))
    return sum(parts) + bias


def normalized(x, gamma, beta, epsilon=1e-5):
    axes = (0, 1, 2)
    return gamma * (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon) + beta


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
