"""What pruning half of the multiply-accumulates saves in a `.tflite` file, and how long pruning takes.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --networks MobileNetV2 --runs 200

Networks of `keras.applications` at 224 pixels with random weights, pruned by `"l2"` to 50 % of their multiply-
accumulates in multiples of 8 channels. The files of one network take turns in one process, on one thread. Printed:
seconds that `prune` and `sort_channels` take, the part of the multiply-accumulates and parameters that is left, the
median milliseconds of an image before and after, and their ratio.

On two cores, beside other work:

    ResNet50      prune 4.5 s, sort_channels 3.3 s; left: 0.500 of the MACs, 0.523 of the parameters
    ResNet50      float32     165.28 ms    93.46 ms, ratio 1.77
    ResNet50      int8         46.10 ms    24.93 ms, ratio 1.85
    MobileNetV2   prune 2.7 s, sort_channels 1.1 s; left: 0.500 of the MACs, 0.556 of the parameters
    MobileNetV2   float32      15.60 ms     8.02 ms, ratio 1.95
    MobileNetV2   int8          7.55 ms     6.25 ms, ratio 1.21
    DenseNet121   prune 6.8 s, sort_channels 3.3 s; left: 0.500 of the MACs, 0.555 of the parameters
    DenseNet121   float32     157.26 ms    89.62 ms, ratio 1.75
    DenseNet121   int8         56.99 ms    32.92 ms, ratio 1.73
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfjointrd as jrd


def main() -> None:
    """Prunes, exports and times each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["ResNet50", "MobileNetV2", "DenseNet121"])
    parser.add_argument("--importance", default="l2", help="a criterion that needs no data")
    parser.add_argument("--scope", default="global", choices=["global", "layer"])
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each file")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).uniform(0, 255, (4, arguments.size, arguments.size, 3)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            network = getattr(keras.applications, name)(weights=None, input_shape=images.shape[1:])
            randomise(network)
            small = timed(name, arguments, network)
            for quantization in (None, "int8"):
                paths = [Path(folder) / f"{form}.tflite" for form in ("full", "pruned")]
                for one, path in zip((network, small), paths, strict=True):
                    jrd.export.tflite(one, path, quantization, representative_data=images, min_agreement=0.0)
                full, pruned = (x.median_ms for x in jrd.report.latencies(paths, threads=1, runs=arguments.runs))
                kind = quantization or "float32"
                print(f"{name:14}{kind:9}{full:9.2f} ms{pruned:9.2f} ms, ratio {full / pruned:.2f}", flush=True)


def timed(name: str, arguments: argparse.Namespace, network: keras.Model) -> keras.Model:
    """The pruned network; prints what it cost to make."""
    began = time.perf_counter()
    small = jrd.prune(network, arguments.importance, target_macs=0.5, scope=arguments.scope)
    pruning = time.perf_counter() - began
    began = time.perf_counter()
    jrd.sort_channels(network, arguments.importance)
    sorting = time.perf_counter() - began
    before, after = jrd.report.profile(network), jrd.report.profile(small)
    left = f"{after.macs / before.macs:.3f} of the MACs, {after.parameters / before.parameters:.3f} of the parameters"
    print(f"{name:14}prune {pruning:.1f} s, sort_channels {sorting:.1f} s; left: {left}", flush=True)
    return small


def randomise(network: keras.Model) -> None:
    """Random scales and statistics, as a trained network has."""
    rng = np.random.default_rng(0)
    for variable in network.weights:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


if __name__ == "__main__":
    main()
