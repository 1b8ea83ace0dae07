"""What a rule is, and the table of them.

A rule describes one class of layers, or one operator such as the one behind `x + y`. `channels`, `axes`, `narrow` and
`producer` say how channels pass through the layer and how it is made narrower; only surgery reads them. Traits say what
else the layer is; surgery, reports and trainings read them. A layer class without `channels` stops surgery with an
error: better none than a wrong network. A trait that nobody has stated is `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.graph import Call, LayerSpec
from tfjointrd.surgery.ties import Ties

IN = "in"
OUT = "out"
Axis = str | tuple[str, int] | None
Config = dict[str, Any]
Shape = tuple[int, ...]
Counter = Callable[[Any, Sequence[Shape], Shape], int | None]


@dataclass(frozen=True)
class Rule:
    """The properties of a layer class or an operator.

    All but `axes`, `narrow`, `producer`, `channels` and `macs` are traits that may also be given as a function of the
    layer's configuration. Traits left at `None` are those of the base class.

    Attributes:
        channels: `(analysis, call, spec, inputs) -> ids`: the channel ids of the output, given those of each input; a
            list of them for a layer that returns several tensors.
        axes: Weight name -> for each axis, the last ones where there are more, `IN`, `OUT` or `None`; `(IN, n)` for an
            axis with n entries for each input channel.
        narrow: `(config, kept_in, kept_out) -> changes`: what changes in the configuration of the narrower layer.
            `kept_in` and `kept_out` are positions of kept channels, `kept_out` a list for several outputs.
        producer: Whether the layer computes each output channel from all its inputs with weights of its own, so that
            output channels can be dropped one by one.
        elementwise: Whether each element of the output depends on the elements at its place alone, those of all inputs
            and weights, and on none of the image's other pixels or channels, outside training.
        in_place: Whether a runtime can write the output over the (only) input, where it has the same size.
        activation: The name of the activation that it computes and nothing else, as `keras.activations` spells it.
        keeps_zeros: Whether channels that are zero in all inputs stay zero, in training too.
        keeps_range: Whether pixels from 0 to 255 stay within 0 to 255, and are neither moved nor scaled, outside
            training.
        keeps_probabilities: Whether a classifier's probabilities stay what they are.
        pools: Whether it takes maxima or means over positions.
        normalizes: `"batch"` for a batch normalisation; `"channels"` for one that divides by a statistic of all
            channels, which takes note of one that is zero, as a layer normalisation.
        joins: `"add"` or `"concatenate"`, where paths of a network meet in it.
        augments: Whether it changes images at random in training.
        matches_by_place: Whether channel i of the input goes with channel i of the output though they are not tied, so
            that neither can change places.
        macs: `(layer, input_shapes, output_shape) -> MACs` of one call; `None` as its result means not known.
    """

    channels: Callable[[Ties, Call, LayerSpec, list[np.ndarray]], np.ndarray | list[np.ndarray]] | None = None
    axes: Mapping[str, tuple] | Callable[[Config], Mapping[str, tuple]] = lambda config: {}
    narrow: Callable[[Config, np.ndarray, Any], Config] = lambda config, kept_in, kept_out: {}
    producer: bool = False
    elementwise: bool | Callable[[Config], bool | None] | None = None
    in_place: bool | Callable[[Config], bool | None] | None = None
    activation: str | Callable[[Config], str | None] | None = None
    keeps_zeros: bool | Callable[[Config], bool | None] | None = None
    keeps_range: bool | Callable[[Config], bool | None] | None = None
    keeps_probabilities: bool | Callable[[Config], bool | None] | None = None
    pools: bool | Callable[[Config], bool | None] | None = None
    normalizes: str | None = None
    joins: str | None = None
    augments: bool | None = None
    matches_by_place: bool | None = None
    macs: Counter | None = None

    def weight_axes(self, config: Config) -> Mapping[str, tuple]:
        """Weight name -> axes, for a layer of this configuration."""
        return self.axes(config) if callable(self.axes) else self.axes

    def kept_entries(
        self,
        config: Config,
        weights: Mapping[str, np.ndarray],
        kept_in: np.ndarray | None,
        kept_out: np.ndarray | None,
    ) -> dict[str, list[np.ndarray | None]]:
        """What a narrower copy takes of a layer's weights.

        Args:
            config: The layer's configuration.
            weights: Its weights by name.
            kept_in: Positions of the kept input channels, or `None` for all.
            kept_out: Positions of the kept output channels, or `None` for all.

        Returns:
            Weight name -> for each axis the positions to keep, or `None` for all.
        """

        def positions(axis: Axis):
            if isinstance(axis, tuple):
                return None if kept_in is None else np.add.outer(kept_in * axis[1], np.arange(axis[1])).ravel()
            return {IN: kept_in, OUT: kept_out, None: None}[axis]

        return {
            name: [positions(axis) for axis in self.axes_of(config, name, value.shape)]
            for name, value in weights.items()
        }

    def axes_of(self, config: Config, name: str, shape: Sequence[int]) -> list[Axis]:
        """What the axes of one weight are; an axis of size one serves all channels."""
        axes = self.weight_axes(config).get(name, ())
        axes = ((None,) * len(shape) + tuple(axes))[-len(shape) or None :]
        return [None if size == 1 else axis for axis, size in zip(axes, shape, strict=True)]


TRAITS = tuple(field.name for field in fields(Rule) if field.default is None and field.name != "channels")

_RULES: dict[type | str, Rule] = {}  # operators, and layers that Keras keeps to itself, by the name of their class


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teaches surgery, reports and trainings a layer class of your own.

    Args:
        layer_class: A subclass of `keras.Layer`, or of `keras.Operation`. Its subclasses have the same traits, but how
            channels pass through them needs rules of their own.
        rule: Its `Rule`; see `pointwise()` for layers that treat each channel alike. Traits that it leaves open stay
            as an earlier rule of this class had them; without `channels`, so does how channels pass.

    Raises:
        ValueError: If `layer_class` is not such a class.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)):
        raise ValueError(
            f"Expected `layer_class` to be a subclass of keras.Layer. Received: layer_class={layer_class!r}"
        )
    add(layer_class, rule)


def add(key: type | str, rule: Rule) -> None:
    """Enters a rule for a class, or for Keras' operators of a class name."""
    base = _RULES.get(key)
    if base is not None:
        rule = _completed(rule, base)
        if rule.channels is None:  # it has traits alone, as one that `register_macs` makes
            rule = replace(rule, **{name: getattr(base, name) for name in ("channels", "axes", "narrow", "producer")})
    _RULES[key] = rule


def registered() -> dict[type | str, Rule]:
    """All rules, by class or by the class name of Keras' operators."""
    return dict(_RULES)


def _completed(rule: Rule, base: Rule) -> Rule:
    """A rule with the traits that it leaves open from another one."""
    return replace(rule, **{name: getattr(base, name) for name in TRAITS if getattr(rule, name) is None})


def rule_of(cls: type) -> Rule:
    """The rule of a layer class or operator, with the traits of its base classes; an empty one where there is none."""
    rule = _own(cls) or Rule()
    for base in cls.__mro__[1:]:
        if base in _RULES:
            rule = _completed(rule, _RULES[base])
    return rule


def _own(cls: type) -> Rule | None:
    """The rule of this very class. Classes of Keras that it does not make public go by name: operators, for one."""
    return _RULES.get(cls) or (_RULES.get(cls.__name__) if _is_hidden(cls) else None)


def _is_hidden(cls: type) -> bool:
    public = issubclass(cls, keras.Layer) and getattr(keras.layers, cls.__name__, None) is cls
    return cls.__module__.partition(".")[0] == "keras" and not public


def describe(spec: LayerSpec) -> Rule:
    """What a layer is: its rule, with traits that depend on its configuration put in."""
    rule = rule_of(spec.cls)
    found = {name: getattr(rule, name) for name in TRAITS if name != "macs"}
    return replace(rule, **{name: trait(spec.config) for name, trait in found.items() if callable(trait)})


def rule_for(name: str, spec: LayerSpec) -> Rule:
    """The rule by which channels pass through a layer.

    Raises:
        ValueError: If there is none; the message names the layer.
    """
    rule = _own(spec.cls)
    if rule is not None and rule.channels is not None:
        return rule
    if spec.cls is keras.layers.Lambda:
        raise ValueError(
            f"Layer '{name}' is a Lambda. Surgery cannot look into its function. Replace it by layers of "
            "`keras.layers`, by functions of `keras.ops`, or by a layer class of your own with a rule "
            "(`tfjointrd.surgery.register_rule`)."
        )
    tried = f" It cannot be replaced by the layers that it calls: {spec.opaque}." if spec.opaque else ""
    raise ValueError(
        f"Layer '{name}' is a {spec.cls.__name__}, and surgery does not know how channels pass through it.{tried} "
        "Add a rule with `tfjointrd.surgery.register_rule`, or cut the network there."
    )
