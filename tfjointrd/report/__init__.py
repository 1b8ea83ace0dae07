"""What networks cost, as data, as tables and as figures."""

from tfjointrd.report.costs import LayerProfile, Profile, profile, summary
from tfjointrd.report.figures import accuracy_against_cost
from tfjointrd.report.macs import register_macs

__all__ = ["LayerProfile", "Profile", "accuracy_against_cost", "profile", "register_macs", "summary"]
