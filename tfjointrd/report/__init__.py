"""What networks cost, as data, as tables and as figures."""

from tfjointrd.report.compare import compare
from tfjointrd.report.figures import accuracy_against_cost, gradient_figure
from tfjointrd.report.file_memory import FileMemory, LiveTensor, file_memory
from tfjointrd.report.file_profile import FileProfile, file_profile
from tfjointrd.report.latency import Latency, latencies, latency, runtime_memory
from tfjointrd.report.layer_latencies import layer_latencies
from tfjointrd.report.network_profile import LayerProfile, Profile, profile, summary
from tfjointrd.report.phone_latency import PhoneLatency, phone_timer, read_phone_latency
from tfjointrd.report.quantization_error import QuantizationError, quantization_error
from tfjointrd.report.search_figures import gate_figure, width_figure
from tfjointrd.report.sensitivity import sensitivity, sensitivity_figure
from tfjointrd.surgery.macs import register_macs

__all__ = [
    "FileMemory",
    "FileProfile",
    "Latency",
    "LayerProfile",
    "LiveTensor",
    "PhoneLatency",
    "Profile",
    "QuantizationError",
    "accuracy_against_cost",
    "compare",
    "file_memory",
    "file_profile",
    "gate_figure",
    "gradient_figure",
    "latencies",
    "latency",
    "layer_latencies",
    "phone_timer",
    "profile",
    "quantization_error",
    "read_phone_latency",
    "register_macs",
    "runtime_memory",
    "sensitivity",
    "sensitivity_figure",
    "summary",
    "width_figure",
]


def __dir__() -> list[str]:
    return list(__all__)
