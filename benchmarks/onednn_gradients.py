"""Which gradients of convolutions TensorFlow's oneDNN kernels compute wrongly on this processor.

    python benchmarks/onednn_gradients.py

Two processes compute outputs and gradients of the same random convolutions, one with oneDNN kernels and one without.
The kinds that differ by more than a thousandth are printed with their numbers of input channels.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

KERNELS_AND_STRIDES = ((1, 1), (1, 2), (1, 3), (2, 2), (3, 1), (3, 2), (5, 2))
CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 20)
WIDTHS = (4, 7, 8, 16)
SIZES = (8, 15, 16)


def cases():
    """Kind of convolution, kernel, stride, padding, image size, input and output channels."""
    for (kernel, stride), padding, size, channels in itertools.product(
        KERNELS_AND_STRIDES, ("VALID", "SAME"), SIZES, CHANNELS
    ):
        for width in WIDTHS:
            yield "ordinary", kernel, stride, padding, size, channels, width
        yield "depthwise", kernel, stride, padding, size, channels, 1


def compute(path: str) -> None:
    """Writes outputs and gradients of every case."""
    import tensorflow as tf

    rng, found = np.random.default_rng(0), {}
    for number, (kind, kernel, stride, padding, size, channels, width) in enumerate(cases()):
        x = tf.constant(rng.normal(size=(32, size, size, channels)).astype("float32"))
        w = tf.constant(rng.normal(size=(kernel, kernel, channels, width)).astype("float32"))
        with tf.GradientTape() as tape:
            tape.watch((x, w))
            steps = [1, stride, stride, 1]
            operation = tf.nn.conv2d if kind == "ordinary" else tf.nn.depthwise_conv2d
            y = operation(x, w, steps, padding)
            loss = tf.reduce_sum(tf.tanh(y))
        dx, dw = tape.gradient(loss, (x, w))
        # Of the two large ones, sums are enough to tell.
        found[f"{number}"] = np.concatenate([np.ravel(a) for a in (np.sum(y, axis=0), np.sum(dx, axis=0), dw)])
    np.savez(path, **found)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for switch in "01":
            path = Path(folder) / f"{switch}.npz"
            environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": switch, "TF_CPP_MIN_LOG_LEVEL": "3"}
            code = subprocess.run(
                [sys.executable, __file__, path], env=environment, stderr=subprocess.DEVNULL
            ).returncode
            if code:
                print(f"With TF_ENABLE_ONEDNN_OPTS={switch} the process ended with {code}.")
                return
            results.append(np.load(path))
        differing: dict[tuple, set] = {}
        for number, (kind, kernel, stride, padding, _, channels, _) in enumerate(cases()):
            without, used = (result[f"{number}"] for result in results)
            if not np.abs(without - used).max() < 1e-3 * np.abs(without).max():
                differing.setdefault((kind, kernel, stride, padding), set()).add(channels)
    print(f"{number + 1} convolutions; differing:" + ("" if differing else " none"))
    for (kind, kernel, stride, padding), channels in differing.items():
        print(f"{kind} {kernel}x{kernel}, stride {stride}, {padding}: {sorted(channels)} input channels")


if __name__ == "__main__":
    compute(sys.argv[1]) if len(sys.argv) > 1 else main()
