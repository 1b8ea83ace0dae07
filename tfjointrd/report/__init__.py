"""What networks cost, as data, as tables and as figures."""

from tfjointrd.report.figures import accuracy_against_cost, gradient_figure
from tfjointrd.report.latency import Latency, latencies, latency
from tfjointrd.report.layer_latencies import layer_latencies
from tfjointrd.report.network_profile import LayerProfile, Profile, profile, summary
from tfjointrd.report.search_figures import gate_figure, width_figure
from tfjointrd.report.sensitivity import sensitivity, sensitivity_figure
from tfjointrd.surgery.macs import register_macs

__all__ = [
    "Latency",
    "LayerProfile",
    "Profile",
    "accuracy_against_cost",
    "gate_figure",
    "gradient_figure",
    "latencies",
    "latency",
    "layer_latencies",
    "profile",
    "register_macs",
    "sensitivity",
    "sensitivity_figure",
    "summary",
    "width_figure",
]


def __dir__() -> list[str]:
    return list(__all__)
