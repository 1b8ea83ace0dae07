"""What a network without shortcuts saves in a `.tflite` file: live memory, memory that LiteRT takes, and time.

    python benchmarks/plain_resnet.py
    python benchmarks/plain_resnet.py --networks resnet50 --threads 1 2 4

ResNets at 224 pixels with random weights: with shortcuts, with only those left that change the resolution (as the
authors of Residual Distillation keep them), and without any. Columns: the most MiB of tensors that live at a time, by
`report.file_memory`, where additions write over an input as in LiteRT, and where they do not (`apart`); MiB that LiteRT
takes in a process of its own with XNNPACK, packed weights among them; median milliseconds of an image with p10 and p90,
the files of a network taking turns in one fresh process. `1.43x` is how many times less or faster than with shortcuts.

On two cores of an AMD EPYC with AVX-512, nothing else running (`--networks resnet50 resnet18`):

                       live MiB              apart MiB             LiteRT takes     ms
    resnet50 float32   7.46 -> 6.81 (1.10x)  9.76 -> 6.81 (1.43x)  113.5 -> 102.1   81.0 -> 72.5 (1.12x)
    resnet50 int8      1.87 -> 1.70 (1.10x)  2.44 -> 1.70 (1.43x)   36.1 -> 33.0    24.5 -> 21.4 (1.14x)
    resnet18 float32   6.81 -> 6.81 (1.00x)  6.81 -> 6.81 (1.00x)   59.8 -> 59.1    37.3 -> 36.6 (1.02x)
    resnet18 int8      1.70 -> 1.70 (1.00x)  1.70 -> 1.70 (1.00x)   21.7 -> 21.4    11.4 -> 11.2 (1.02x)

With projections kept ResNet-50 needs as much memory as with all shortcuts, and is 1.01 and 1.03 times as fast. LiteRT
keeps the input, 0.57 MiB, to the end. The plain networks and ResNet-18 need most in the stem, not where shortcuts are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfjointrd as jrd

MIB = 1024**2


def forms(name: str, size: int, classes: int = 1000) -> dict[str, keras.Model]:
    """The network in its three forms."""
    network = getattr(jrd.models, name)(classes, (size, size, 3))
    return {
        "with shortcuts": network,
        "projections kept": jrd.remove_shortcuts(network, keep_projections=True),
        "plain": jrd.remove_shortcuts(network),
    }


def main() -> None:
    """Writes the files, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--formats", nargs="+", default=["float32", "int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--runs", type=int, default=60, help="timed runs of each file")
    parser.add_argument("--without-xnnpack", action="store_true", help="time LiteRT's own kernels")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).uniform(0, 255, (4, arguments.size, arguments.size, 3)).astype("float32")
    times = "".join(f" ms, {threads} thread{'s' if threads > 1 else ''} |" for threads in arguments.threads)
    print(f"| network | file | | live MiB | apart MiB | LiteRT takes MiB |{times}")
    print("|---|---|---|--:|--:|--:|" + "--:|" * len(arguments.threads))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            networks = forms(name, arguments.size)
            for form in arguments.formats:
                paths = {}
                for kind, network in networks.items():
                    paths[kind] = Path(folder) / f"{name} {kind} {form}.tflite"
                    quantization = None if form == "float32" else form
                    jrd.export.tflite(network, paths[kind], quantization, representative_data=images, min_agreement=0.0)
                print_rows(name, form, paths, arguments)


def print_rows(name: str, form: str, paths: dict[str, Path], arguments: argparse.Namespace) -> None:
    """One row a form of the network."""
    live = [jrd.report.file_memory(path).peak_bytes / MIB for path in paths.values()]
    apart = [jrd.report.file_memory(path, in_place=False).peak_bytes / MIB for path in paths.values()]
    taken = [jrd.report.runtime_memory(path) / MIB for path in paths.values()]
    xnnpack = not arguments.without_xnnpack
    times = [
        jrd.report.latencies(list(paths.values()), threads, arguments.runs, xnnpack=xnnpack)
        for threads in arguments.threads
    ]
    for place, kind in enumerate(paths):
        cells = [f"{row[place]:.2f} ({row[0] / row[place]:.2f}x)" for row in (live, apart, taken)]
        for row in times:
            one = row[place]
            faster = row[0].median_ms / one.median_ms
            cells.append(f"{one.median_ms:.2f} ({faster:.2f}x; {one.p10_ms:.2f} to {one.p90_ms:.2f})")
        print(f"| {name} | {form} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
