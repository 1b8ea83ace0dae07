"""What the explicit padding of strided windows costs in a `.tflite` file, over `padding="same"`.

    python benchmarks/padding_cost.py
    python benchmarks/padding_cost.py --networks resnet20 --runs 400

Both forms of one network take turns in one process, on one thread. Printed: the median milliseconds of an image, and
the ratio of the medians, padded by padding "same". On two cores of an AMD
EPYC the six ratios were 0.984 to 1.014 (ResNet-20 at 32, ResNet-18 and -50 at 224 pixels, float32 and int8). Again,
beside other work: ResNet-20 and -18 0.858 to 0.999, ResNet-50 1.138 and 1.140; with `--networks resnet50 --runs 150`
1.033 in float32, 1.010 in int8. So the padding costs ResNet-50 a few percent at most, the others nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tfjointrd as jrd
from tfjointrd.models import blocks


def main() -> None:
    """Exports and times each network in both forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet18", "resnet50"])
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each file; ten times as many at 32 pixels")
    arguments = parser.parse_args()
    print(f"{'':24}{'same':>12}{'padded':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            padded = getattr(jrd.models, name)()
            with mock.patch.object(blocks, "pad", lambda x, kernel_size, strides, name: (x, "same")):
                same = getattr(jrd.models, name)()
            images = np.random.default_rng(0).uniform(0, 255, (4, *padded.input_shape[1:])).astype("float32")
            for quantization in (None, "int8"):
                paths = [Path(folder) / f"{form}.tflite" for form in ("same", "padded")]
                for network, path in zip((same, padded), paths, strict=True):
                    jrd.export.tflite(network, path, quantization, representative_data=images, min_agreement=0.0)
                runs = arguments.runs * (10 if padded.input_shape[1] == 32 else 1)
                before, after = (found.median_ms for found in jrd.report.latencies(paths, threads=1, runs=runs))
                print(f"{name:12}{quantization or 'float32':12}{before:12.3f}{after:12.3f}{after / before:8.3f}")


if __name__ == "__main__":
    main()
