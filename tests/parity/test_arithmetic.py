"""Kernel parameters and MACs of every network, against arithmetic that knows no framework."""

import arithmetic
import pytest

from tfjointrd import models, report


def deep(*case):
    """A network that is a deeper one of others."""
    return pytest.param(*case, marks=pytest.mark.slow)


def counted(model):
    costs = report.profile(model)
    assert not costs.uncounted
    return costs.kernel_parameters, costs.macs


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("depth", [20, 32, 44, 56, deep(110)])
def test_cifar_resnets(depth, shortcut):
    model = getattr(models, f"resnet{depth}")(shortcut=shortcut)
    assert counted(model) == arithmetic.cifar(depth, shortcut=shortcut)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_wide_resnets(depth):
    assert counted(getattr(models, f"wide_resnet{depth}")(num_classes=100)) == arithmetic.wide(depth, classes=100)


@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), deep(101, 44_549_160), deep(152, 60_192_808)],
)
def test_imagenet_resnets(depth, published):
    model = getattr(models, f"resnet{depth}")()
    assert counted(model) == arithmetic.imagenet(depth)
    assert report.profile(model).trainable_parameters == published


@pytest.mark.parametrize("depth", [18, 34, 50, deep(100), deep(101), deep(152)])
def test_xresnets(depth):
    assert counted(getattr(models, f"xresnet{depth}")()) == arithmetic.xresnet(depth)


# The numbers that the paper prints in its Table 3, in millions and cut off after the digits shown.
@pytest.mark.parametrize(
    ("depth", "parameters", "macs"), [(20, 0.27, 40), (32, 0.46, 69), (44, 0.65, 97), (110, 1.72, 253)]
)
def test_the_papers_table(depth, parameters, macs):
    weights, operations = arithmetic.cifar(depth)
    assert (weights // 10**4 / 100, operations // 10**6) == (parameters, macs)
