"""Accuracy right after pruning, by criterion and by how the layers of a tied set are reduced to one score.

    python benchmarks/pruning_reductions.py --network saved_models/resnet20_cifar10/model.keras --data-file FILE.npz

Nothing is trained after pruning. Each cell: accuracy on the first test images at each part of the multiply-
accumulates that is left, and the mean over all criteria below. With `--images 1000` on CIFAR-10 (JPEG q75 copy), of
85.9 % for the full network, means over the criteria with 0.8 and 0.6 left, by layer and globally: mean 58.9, 26.2,
55.6, 25.9 (together 41.7 %); max 51.4, 24.7, 58.4, 29.2 (40.9 %); first 57.4, 26.5, 51.6, 25.3 (40.2 %). So `"mean"`
is the default, by a margin that one network with 1,000 images does not settle. By criterion, mean of layers, with 0.8
left globally: taylor 68.9, fpgm 65.0, l2 63.0, l1 61.2, hrank 55.1, nisp 48.4, gamma 27.3.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfjointrd as jrd
from tfjointrd.surgery import importance

CRITERIA = {
    "l1": importance.L1,
    "l2": importance.L2,
    "gamma": importance.BatchNormGamma,
    "fpgm": importance.FPGM,
    "taylor": importance.Taylor,
    "hrank": lambda **options: importance.HRank(200, **options),
    "nisp": importance.NISP,
}


def main() -> None:
    """Prunes by each criterion, reduction, scope and budget, and prints the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True, help="a trained network, .keras")
    parser.add_argument("--data-file", required=True, help=".npz with x_train, y_train, x_test and y_test")
    parser.add_argument(
        "--images", type=int, default=2000, help="of the test set, and half as many of the training set"
    )
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.6], help="parts of the MACs that are left")
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    arguments = parser.parse_args()
    network = keras.models.load_model(arguments.network, compile=False)
    with np.load(arguments.data_file) as file:
        test = file["x_test"][: arguments.images].astype("float32"), file["y_test"][: arguments.images]
        train = file["x_train"][: arguments.images // 2].astype("float32"), file["y_train"][: arguments.images // 2]
    print(f"full network: {100 * accuracy(network, *test):.1f} %; parts of the MACs left: {arguments.targets}")
    for scope in ("layer", "global"):
        rows = {}
        for reduction in ("mean", "max", "first"):
            for name in arguments.criteria:
                criterion = CRITERIA[name](reduction=reduction)
                scores = jrd.surgery.channel_importance(network, criterion, train)
                options = {"scope": scope, "round_to": 1}
                pruned = [jrd.prune(network, scores, target_macs=x, **options) for x in arguments.targets]
                rows[reduction, name] = [accuracy(small, *test) for small in pruned]
                print_row(scope, reduction, name, rows[reduction, name])
            own = [row for (kind, _), row in rows.items() if kind == reduction]
            print_row(scope, reduction, "mean of all", np.mean(own, axis=0))


def accuracy(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that a network gets right."""
    outputs = [np.asarray(network(images[i : i + 500], training=False)) for i in range(0, len(images), 500)]
    return float(np.mean(np.concatenate(outputs).argmax(axis=-1) == labels.ravel()))


def print_row(scope: str, reduction: str, name: str, accuracies) -> None:
    """One line of the table."""
    print(f"{scope:8}{reduction:7}{name:13}" + "".join(f"{100 * x:7.1f}" for x in accuracies), flush=True)


if __name__ == "__main__":
    main()
