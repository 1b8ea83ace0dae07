"""Costs of several networks beside each other."""

import pytest

from tfjointrd import models, report, slim


def test_networks_stand_beside_the_first(capsys):
    network = models.cifar_resnet(8, 10, (16, 16, 3))
    small = slim(network, {"stage3_block1_conv1": range(16)}, name="small")
    costs = report.compare(network, small)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["Network", "Parameters", "MACs", "Live", "KiB"]
    assert first.split() == ["resnet8", f"{costs[0].parameters:,}", f"{costs[0].macs:,}", "48.0"]
    parts = [f"{round(100 * getattr(costs[1], name) / getattr(costs[0], name))}%" for name in ("parameters", "macs")]
    assert second.split() == [
        "small",
        f"{costs[1].parameters:,}",
        parts[0],
        f"{costs[1].macs:,}",
        parts[1],
        "48.0",
        "100%",
    ]
    assert costs[1].parameters < costs[0].parameters and costs[0] == report.profile(network)


def test_networks_of_one_name_are_numbered(capsys):
    network = models.cifar_resnet(8, 10, (16, 16, 3))
    report.compare(network, network)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["resnet8 (1)", "resnet8 (2)"]


def test_a_network_is_needed():
    with pytest.raises(ValueError, match="Expected one network or several"):
        report.compare()
