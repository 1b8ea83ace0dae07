"""Parameters and multiply-accumulates of the networks of Adjoined Networks, beside what the paper prints.

    python benchmarks/paper_arithmetic.py

Counted as the estimator does that the authors' code names: weights of convolutions and dense layers without biases and
batch normalisation, in millions; a multiply-accumulate is one operation. The paper cuts its figures off after the
digits that it prints. Widths are rounded down, stem and first stage stay full.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import tfjointrd as jrd

CIFAR = {"num_classes": 10, "input_shape": (32, 32, 3)}
CIFAR100 = {"num_classes": 100, "input_shape": (32, 32, 3)}
NOT_FORMULA = "the three MACs fit no x + y/alpha + z/alpha² with y from 0 on: some were counted otherwise"
EXTRA_BLOCK = "both rows of depth 100 fit seven blocks in stage 1; the text and the authors' code say six"
NOT_PRINTED = "not printed; the text says about 35 times fewer parameters"


@dataclass(frozen=True)
class Row:
    """A network of Tables 3 and 4; `None` where the paper prints nothing."""

    name: str
    network: str
    options: dict
    alpha: int = 1
    parameters: float | None = None
    macs: float | None = None
    why: str = ""


ROWS = (
    Row("ResNet-20", "resnet20", CIFAR, 1, 0.27, 40),
    Row("AN-20-Small a2", "resnet20", CIFAR, 2, 0.07, 21),
    Row("ResNet-32", "resnet32", CIFAR, 1, 0.46, 69),
    Row("AN-32-Small a2", "resnet32", CIFAR, 2, 0.13, 35),
    Row("ResNet-44", "resnet44", CIFAR, 1, 0.65, 97),
    Row("AN-44-Small a2", "resnet44", CIFAR, 2, 0.19, 49),
    Row("ResNet-56", "resnet56", CIFAR, 1, 0.84, 127, "the one row for CIFAR-10 that does not fit"),
    Row("AN-56-Small a2", "resnet56", CIFAR, 2, 0.24, 63),
    Row("ResNet-110", "resnet110", CIFAR, 1, 1.72, 253),
    Row("AN-110-Small a2", "resnet110", CIFAR, 2, 0.49, 127),
    Row("ResNet-50", "xresnet50", {}, 1, 25.5, 4774, NOT_FORMULA),
    Row("AN-50-Small a2", "xresnet50", {}, 2, 7.14, 2202, NOT_FORMULA),
    Row("AN-50-Small a4", "xresnet50", {}, 4, 2.2, 1619, NOT_FORMULA),
    Row("ResNet-100", "xresnet100", {}, 1, 46.99, 8473, EXTRA_BLOCK),
    Row("AN-100-Small a4", "xresnet100", {}, 4, 3.86, 2681, EXTRA_BLOCK),
    Row("ResNet-50, CIFAR-100", "xresnet50", CIFAR100),
    Row("AN-50-Small a8, CIFAR-100", "xresnet50", CIFAR100, 8, why=NOT_PRINTED),
    Row("ResNet-18, CIFAR-100", "xresnet18", CIFAR100),
    Row("AN-18-Small a2, CIFAR-100", "xresnet18", CIFAR100, 2),
    Row("DenseNet-121, CIFAR-100", "densenet121", CIFAR100),
    Row("AN-121-Small a4, CIFAR-100", "densenet121", CIFAR100, 4),
)


def network(row: Row) -> keras.Model:
    """The row's network, narrow where it is a small one."""
    full = getattr(jrd.models, row.network)(**row.options)
    return full if row.alpha == 1 else jrd.adjoin(full, row.alpha, round_to=1).small()


def cell(ours: float, printed: float | None, digits: int) -> tuple[str, str]:
    """Ours and the paper's figure; ours is marked where cutting it off does not give the paper's."""
    if printed is None:
        return f"{ours:.{digits}f}", ""
    same = abs(int(ours * 10**digits + 1e-6) / 10**digits - printed) < 10**-digits / 2
    return f"{ours:.{digits + 2}f}" + ("" if same else f" ({100 * (ours / printed - 1):+.1f} %)"), str(printed)


def main() -> None:
    print("| network | parameters (M) | paper | MACs (M) | paper | recipe's network | |")
    print("|---|--:|--:|--:|--:|---|---|")
    for row in ROWS:
        costs = jrd.report.profile(network(row))
        digits = len(str(row.parameters).partition(".")[2]) if row.parameters else 2
        cells = [*cell(costs.kernel_parameters / 1e6, row.parameters, digits), *cell(costs.macs / 1e6, row.macs, 0)]
        print(f"| {row.name} | {' | '.join(cells)} | {row.network} | {row.why} |", flush=True)


if __name__ == "__main__":
    main()
