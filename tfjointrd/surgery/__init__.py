"""A network in, a network out: read a network's graph, remove shortcuts, keep channels, adjoin."""

from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.classifier_head import new_head
from tfjointrd.surgery.dirac import dirac, fold
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, functional
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import IN, OUT, Rule, pointwise, register_rule
from tfjointrd.surgery.shortcuts import remove_shortcuts, shortcut_report
from tfjointrd.surgery.slim import slim
from tfjointrd.surgery.swap import swap_layers

__all__ = [
    "IN",
    "OUT",
    "Call",
    "Channels",
    "Graph",
    "LayerSpec",
    "Ref",
    "Rule",
    "dirac",
    "fold",
    "functional",
    "new_head",
    "pointwise",
    "read_graph",
    "register_rule",
    "remove_shortcuts",
    "shortcut_report",
    "slim",
    "swap_layers",
]


def __dir__() -> list[str]:
    return list(__all__)
