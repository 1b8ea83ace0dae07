"""Parameters and multiply-accumulates of small networks against plain arithmetic (Adjoined Networks, Table 3)."""

import arithmetic
import pytest

from tfjointrd import adjoin, models, report


def counts(model):
    profile = report.profile(model)
    return profile.kernel_parameters, profile.macs


@pytest.mark.parametrize(
    "depth, alpha",
    [(20, 2), (20, 4), (20, 8), (20, 16), *(pytest.param(56, alpha, marks=pytest.mark.slow) for alpha in (2, 16))],
)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_cifar(depth, alpha, shortcut):
    model = getattr(models, f"resnet{depth}")(shortcut=shortcut)
    assert counts(adjoin(model, alpha, round_to=1).small()) == arithmetic.cifar(depth, alpha, shortcut)


@pytest.mark.parametrize(
    "depth, alpha", [(18, 2), *(pytest.param(50, alpha, marks=pytest.mark.slow) for alpha in (2, 4, 16))]
)
def test_xresnet(depth, alpha):
    model = getattr(models, f"xresnet{depth}")()
    assert counts(adjoin(model, alpha, round_to=1).small()) == arithmetic.xresnet(depth, alpha)


def test_the_papers_printed_figures():
    """Table 3: AN-20-Small a2 has 0.07M parameters and 21M MACs, AN-50-Small a2 7.14M parameters."""
    parameters, macs = counts(adjoin(models.resnet20(), 2, round_to=1).small())
    assert (parameters // 10_000, macs // 1_000_000) == (7, 21)
    assert counts(adjoin(models.xresnet50(), 2, round_to=1).small())[0] // 10_000 == 714
