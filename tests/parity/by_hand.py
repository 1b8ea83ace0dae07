"""Residual networks written out in float64 numpy, from the papers' equations and PyTorch's padding.

Tensors are `(batch, channels, height, width)`, kernels `(filters, channels, height, width)`, as in PyTorch: a window of
size k starts at k // 2 pixels ahead of the image, whatever its stride. Nothing here uses Keras but `draw` and `load`.
"""

from math import ceil, erf, exp, pi, sqrt

import numpy as np

EPSILON = 1e-5  # of batch normalisation

# === Operations, window by window ===


def convolve(x, kernel, stride=1):
    """The convolution with zeros around the image."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2))
    rows, columns = ((n + 2 * (size // 2) - size) // stride + 1 for n in x.shape[2:])
    out = np.zeros((len(x), len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, :, i, j] = np.tensordot(window, kernel, ([1, 2, 3], [1, 2, 3]))
    return out


def pool_maximum(x):
    """The maximum of 3x3 pixels, stride 2; nothing around the image counts."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = ((n + 2 - 3) // 2 + 1 for n in x.shape[2:])
    windows = [
        [padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3)) for j in range(columns)] for i in range(rows)
    ]
    return np.moveaxis(np.array(windows), (0, 1), (2, 3))


def pool_average(x):
    """The average of 2x2 pixels, stride 2; at an odd edge of what is there."""
    rows, columns = (ceil(n / 2) for n in x.shape[2:])
    windows = [
        [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(columns)] for i in range(rows)
    ]
    return np.moveaxis(np.array(windows), (0, 1), (2, 3))


def normalise(x, bn, train=False):
    """Batch normalisation; in training by the batch's own statistics."""
    mean, variance = (x.mean((0, 2, 3)), x.var((0, 2, 3))) if train else (bn["mean"], bn["variance"])
    scale, mean, offset = (v[:, None, None] for v in (bn["gamma"] / np.sqrt(variance + EPSILON), mean, bn["beta"]))
    return (x - mean) * scale + offset


def relu(x):
    return np.maximum(x, 0)


# === Networks ===


def unit(w, x, name, index="", stride=1, train=False):
    """A convolution and its batch normalisation."""
    return normalise(convolve(x, w[f"{name}_conv{index}"], stride), w[f"{name}_bn{index}"], train)


def basic(w, x, name, stride, train):
    return unit(w, relu(unit(w, x, name, 1, stride, train)), name, 2, 1, train)


def bottleneck(w, x, name, stride, train):
    x = relu(unit(w, x, name, 1, 1, train))
    return unit(w, relu(unit(w, x, name, 2, stride, train)), name, 3, 1, train)


def projection(w, x, name, stride, width, train):
    return unit(w, x, f"{name}_shortcut", "", stride, train)


def pooled_projection(w, x, name, stride, width, train):
    return unit(w, pool_average(x) if stride > 1 else x, f"{name}_shortcut", "", 1, train)


def zero_padding(w, x, name, stride, width, train):
    x = x[:, :, ::stride, ::stride]
    return np.concatenate([x, np.zeros((len(x), width - x.shape[1], *x.shape[2:]))], axis=1)


def stages(w, x, counts, block=basic, shortcut=projection, identity=True, train=False, first=1):
    """All stages from `first` on: the last block's output ahead of its ReLU, and each stage's behind it.

    Args:
        shortcut: Where the shape changes, or `None` for no shortcut.
        identity: Whether there are shortcuts elsewhere.
    """
    ends = []
    for stage in range(first, len(counts) + 1):
        for number in range(1, counts[stage - 1] + 1):
            name, stride = f"stage{stage}_block{number}", 2 if stage > 1 and number == 1 else 1
            z = block(w, x, name, stride, train)
            if shortcut is not None and (stride > 1 or x.shape[1] != z.shape[1]):
                z = z + shortcut(w, x, name, stride, z.shape[1], train)
            elif identity:
                z = z + x
            x = relu(z)
        ends.append(x)
    return z, ends


def classify(w, x):
    """Logits of the last feature map behind its ReLU."""
    return x.mean((2, 3)) @ w["logits"]["weight"].T + w["logits"]["bias"]


def dirac_kernels(w):
    """alpha delta + beta W, where there are such factors; delta hands channel i on at the centre of the kernel."""
    found = dict(w)
    for name in [key.removesuffix("_alpha") for key in w if key.endswith("_alpha")]:
        kernel = w[name] * w[f"{name}_beta"][:, None, None, None]
        middle = kernel.shape[-1] // 2
        for channel in range(min(kernel.shape[:2])):
            kernel[channel, channel, middle, middle] += w[f"{name}_alpha"][channel]
        found[name] = kernel
    return found


# === Losses ===


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def cross_entropy(logits, labels):
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def margins(bn):
    """E[x | x < 0] for x normally distributed with mean beta and deviation |gamma|."""
    found = []
    for beta, gamma in zip(bn["beta"], np.abs(bn["gamma"]), strict=True):
        negative = 0.5 * (1 - erf(beta / gamma / sqrt(2)))
        density = exp(-0.5 * (beta / gamma) ** 2) / sqrt(2 * pi)
        found.append(beta - gamma * density / negative if negative > 1e-3 else -3 * gamma)
    return np.array(found)


def feature_distance(student, teacher, margin):
    """Position by position, as the three cases are told in words."""
    total = 0.0
    for index in np.ndindex(student.shape):
        s, t, m = student[index], teacher[index], margin[index[1]]
        if t > 0:  # the ReLU passes it on: the same value is wanted
            total += (s - t) ** 2
        elif s > max(t, m):  # it is cut off: at most the teacher's value, or the margin where that lies higher
            total += (s - max(t, m)) ** 2
    return total / len(student)


# === Weights by a seed ===


def draw(network, seed=0):
    """Weights for each layer of a Keras network, by its name, in PyTorch's layout."""
    rng, found = np.random.default_rng(seed), {}
    for layer in network.layers:
        own = {weight.name: weight.shape for weight in layer.weights}
        if "moving_mean" in own:
            (width,) = own["gamma"]
            found[layer.name] = {
                "gamma": rng.uniform(0.5, 1.5, width),
                "beta": rng.normal(0, 0.5, width),
                "mean": rng.normal(0, 0.5, width),
                "variance": rng.uniform(0.5, 1.5, width),
            }
        elif len(own.get("kernel", ())) == 4:
            height, width, channels, filters = own["kernel"]
            found[layer.name] = rng.normal(0, sqrt(2 / (channels * height * width)), (filters, channels, height, width))
            for factor in own.keys() & {"alpha", "beta"}:
                found[f"{layer.name}_{factor}"] = rng.uniform(0.2, 1.2, filters)
        elif "kernel" in own:
            inputs, units = own["kernel"]
            found[layer.name] = {"weight": rng.normal(size=(units, inputs)), "bias": rng.normal(size=units)}
    return found


def load(network, weights):
    """Copies weights in PyTorch's layout into a Keras network."""
    for layer in network.layers:
        if layer.weights:
            load_layer(layer, weights[layer.name], weights)


def load_layer(layer, own, weights=()):
    """Copies one layer's weights; `weights` has the factors of a Dirac convolution."""
    if isinstance(own, dict) and "gamma" in own:
        layer.set_weights([own["gamma"], own["beta"], own["mean"], own["variance"]])
    elif isinstance(own, dict):
        layer.set_weights([own["weight"].T, own["bias"]])
    else:
        values = {"kernel": own.transpose(2, 3, 1, 0)}
        values |= {f: weights[f"{layer.name}_{f}"] for f in ("alpha", "beta") if f"{layer.name}_{f}" in weights}
        layer.set_weights([values[weight.name] for weight in layer.weights])
