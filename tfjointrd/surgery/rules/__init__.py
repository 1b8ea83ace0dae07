"""What each layer is, in one table that surgery, reports and trainings read; `register_rule` adds to it."""

from tfjointrd.surgery.rules import builtin, operators  # noqa: F401  (fill the table)
from tfjointrd.surgery.rules.channel_flow import pointwise
from tfjointrd.surgery.rules.rule import IN, OUT, Rule, describe, register_rule, rule_for

__all__ = ["IN", "OUT", "Rule", "describe", "pointwise", "register_rule", "rule_for"]
