"""The fields that all recipes share, and how a recipe is made from a method's name or from a stored card."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, dataclass_transform

from tfjointrd.experiments.recipes.option import option, plain
from tfjointrd.export import quantize

SCALES = ("smoke", "laptop", "study", "paper")
SCORED_ON = ("test", "held_out")
RANDOM = "random"  # widths drawn at random
METHODS: dict[str, type[Recipe]] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training. `Recipe(method="adjoined", alpha=4)` makes one of the method's own class.

    Attributes:
        method: The method; see `METHODS`.
    """

    method: str = option("standard", "How to train.", command_line=False)
    network: str = option(
        "resnet20",
        "Name of a network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file; for "
        "`transfer` and `pruned` the latter, or the name of the recipe that trains it.",
    )
    data: str = option("digits", "Name of a data set, folder of images or `.npz` file; see `tfjointrd.data.load`.")
    image_size: int | None = option(
        None,
        "Side of the images in pixels; see `tfjointrd.data.load`. By default photographs have 224, for `transfer` and "
        "`pruned` as many as the network was made for.",
        kind=int,
        least=1,
        later=True,
    )
    augment: bool | str = option(
        True, "Augmentation of the training images; see `tfjointrd.data.load`.", command_line=False, kind=object
    )
    images: int | None = option(
        None, "Number of training images an epoch, and of validation images; by default all.", kind=int, least=1
    )
    held_out_for_validation: float = option(
        0.0,
        "The part of the training images that nothing is trained on and that all settings are chosen by, the same ones "
        "for every seed. They are the validation images of the training then, and the set's own validation images, "
        "`test`, are looked at once, after the last epoch. By default the set's own are both.",
        least=0,
        below=1,
        later=True,
    )
    scored_on: str = option(
        "test",
        "The images that the accuracies of the finished training are measured on: `test`, or `held_out`, for trainings "
        "by which settings are chosen.",
        choices=SCORED_ON,
        later=True,
    )
    epochs: int = option(10, "Number of epochs; for `pruned` 0 trains nothing.", least=1)
    batch_size: int = option(128, "Images a step. For `transfer` the default is 64.", least=1)
    optimizer: str = option(
        "sgd", "`sgd` (Nesterov momentum 0.9) or `adam` (with decoupled weight decay).", choices=("sgd", "adam")
    )
    schedule: str = option(
        "one_cycle",
        "`one_cycle`: the learning rate rises over the first part `warmup` of the training and falls along a cosine to "
        "zero. `steps`: it is divided by 10 at each of `milestones`; without any it stays as it is.",
        choices=("one_cycle", "steps"),
    )
    learning_rate: float = option(
        0.1, "The highest learning rate. For `transfer` the default is 0.02, for `pruned` 0.01.", above=0
    )
    warmup: float = option(
        0.1, "The part of the training over which the learning rate rises, for `one_cycle`.", least=0, below=1
    )
    milestones: tuple[int, ...] = option(
        (), "Epochs at whose beginning the learning rate falls, for `steps`.", kind=int
    )
    weight_decay: float = option(
        5e-4,
        "Decay of all weights but biases, batch normalisations' and Dirac convolutions' factors. For `sgd` it is the "
        "L2 penalty's factor, as papers and PyTorch count it; for `adam` the decoupled decay.",
        least=0,
    )
    initializer: str = option(
        "he_normal",
        "How new weights are drawn: `he_normal`, `fan_out` as the authors of Residual Distillation draw them, or "
        "`lecun_normal` as those of Adjoined Networks do; see `tfjointrd.surgery.initializers`. A network from a "
        "`.keras` file keeps its weights.",
        choices=("he_normal", "fan_out", "lecun_normal"),
        later=True,
    )
    formats: tuple[str, ...] = option(
        ("float32", "int8"),
        "Number formats of the `.tflite` files that the finished networks are written as; see "
        "`tfjointrd.export.tflite`.",
        kind=str,
        later=True,
    )
    seed: int = option(0, "Seed of the initial weights, the order of the images and their augmentation.", least=0)
    name: str = option("", "The name under which it is registered, if it is.", command_line=False)
    scale: str = option("", f"{', '.join(SCALES)}, if it is registered.", command_line=False)

    summary: ClassVar[str] = ""  # what the method trains, for lists of methods
    files: ClassVar[dict[str, str]] = {}  # fields that name a file -> its kind

    def __new__(cls, *, method: str | None = None, **fields):
        """Of the method's class, if no class of a method is called.

        Raises:
            ValueError: If there is no such method, or a field is none of its own.
        """
        if cls is Recipe:
            cls = class_of("standard" if method is None else method)
        foreign = {name: value for name, value in fields.items() if name not in cls.names()}
        if foreign:
            raise ValueError(_foreign(cls, foreign))
        return super().__new__(cls)

    def __post_init__(self):
        """Checks what can be checked without loading anything."""
        own = type(self).__dataclass_fields__["method"].default
        if self.method != own:
            raise ValueError(f"Expected method '{own}' for {type(self).__name__}. Received: method='{self.method}'.")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
            field.metadata["values"].check(field.name, getattr(self, field.name))
        self.check()

    def check(self) -> None:
        """Checks fields against each other. Subclasses call their parents'."""
        known = quantize.arguments()
        if len(set(self.formats)) < len(self.formats) or not set(self.formats) <= known.keys():
            raise ValueError(f"Expected `formats` to be among {list(known)}, each once. Received: {self.formats}.")
        if self.scored_on == "held_out" and not self.held_out_for_validation:
            raise ValueError(
                "Expected `held_out_for_validation` above 0, to score on these images. Received: "
                f"held_out_for_validation={self.held_out_for_validation}, scored_on='held_out'."
            )
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(f"Expected ascending `milestones` from 1. Received: milestones={self.milestones}.")
        if self.milestones and self.schedule != "steps":
            raise ValueError(
                f"Expected `milestones` for schedule 'steps' only. Received: schedule='{self.schedule}', "
                f"milestones={self.milestones}."
            )
        if self.network.endswith(".keras") and self.initializer != "he_normal":
            raise ValueError(
                "Expected `initializer` for a network by name, since one from a .keras file keeps its weights. "
                f"Received: network='{self.network}', initializer='{self.initializer}'."
            )

    def check_milestones(self) -> None:
        """Checks that the learning rate of a new training falls at one of them. Cards may hold older ones.

        Raises:
            ValueError: If it does not.
        """
        if self.milestones and self.epochs and min(self.milestones) >= self.epochs:
            raise ValueError(
                f"Expected a milestone below `epochs`, since the learning rate would stay as it is. Received: "
                f"milestones={self.milestones}, epochs={self.epochs}."
            )

    def check_files(self) -> None:
        """Checks that the files it needs exist.

        Raises:
            FileNotFoundError: If one does not: the teacher's, that of the network with the widths, the latency table.
        """
        for name, kind in self.files.items():
            value = getattr(self, name)
            if value not in (None, RANDOM) and not Path(value).is_file():
                raise FileNotFoundError(f"Expected `{name}` to be a {kind} file. Received: {name}='{value}'.")

    @classmethod
    def names(cls) -> set[str]:
        """Names of the fields."""
        return {field.name for field in dataclasses.fields(cls)}

    def given(self, names) -> dict:
        """Those of the named fields that have another value than by default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}

    def get(self, name: str):
        """The value of a field that other methods have, `None` where this one has not."""
        return getattr(self, name, None)

    def as_dict(self) -> dict:
        """The recipe as plain data, as JSON would return it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# === Methods, by name ===


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
def method(name: str, summary: str) -> Callable[[type[Recipe]], type[Recipe]]:
    """Makes a class the one of a method: a dataclass whose documentation says what its fields do.

    Args:
        name: The method's name.
        summary: What it trains, for lists of methods.
    """

    def register(cls: type[Recipe]) -> type[Recipe]:
        cls.summary = summary
        cls.method = option(name, "How to train.", command_line=False)
        cls.__annotations__ = {**cls.__dict__.get("__annotations__", {}), "method": "str"}
        METHODS[name] = _documented(dataclass(frozen=True, kw_only=True)(cls))
        return cls

    return register


def _documented(cls: type[Recipe]) -> type[Recipe]:
    lines = []
    for field in dataclasses.fields(cls):
        if field.name != "method":
            lines += textwrap.wrap(f"{field.name}: {field.metadata['text']}", 112, subsequent_indent="    ")
    head = (cls.__doc__ or "").split("\n\n    Attributes:")[0].rstrip()
    cls.__doc__ = f"{head}\n\n    Attributes:\n{textwrap.indent(chr(10).join(lines), ' ' * 8)}\n    "
    return cls


def class_of(name: str) -> type[Recipe]:
    """The class of a method.

    Raises:
        ValueError: If there is no such method.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"Expected `method` to be one of {sorted(METHODS)}. Received: method={name!r}.{hint}")
    return METHODS[name]


def all_fields(methods: Iterable[str] | None = None) -> dict[str, dataclasses.Field]:
    """The fields of some methods, by default of all, by name; where defaults differ, as the first of them has them."""
    found: dict[str, dataclasses.Field] = {}
    for name in METHODS if methods is None else methods:
        for field in dataclasses.fields(METHODS[name]):
            found.setdefault(field.name, field)
    return found


def methods_with(name: str) -> list[str]:
    """The methods that have a field."""
    return [method for method, cls in METHODS.items() if name in cls.names()]


def _foreign(cls: type[Recipe], fields: Mapping) -> str:
    """What to say of fields that a method does not have."""
    own = cls.__dataclass_fields__["method"].default
    known = all_fields()
    unknown = sorted(fields.keys() - known.keys())
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return f"Expected fields that recipes have. Received: {', '.join(unknown)}.{hint}"
    first = methods_with(next(iter(fields)))
    alike = [name for name in fields if methods_with(name) == first]
    expected = ", ".join(f"`{name}`" for name in alike)
    received = ", ".join(f"{name}={fields[name]!r}" for name in alike)
    return f"Expected {expected} for method {' or '.join(map(repr, first))} only. Received: method='{own}', {received}."


def from_stored(fields: Mapping) -> Recipe:
    """The recipe that a card or a folder holds, of this version or an earlier one.

    Args:
        fields: Its fields. Those that its method does not have are left out, and those that earlier versions did not
            know yet have their defaults.

    Raises:
        ValueError: If a field is missing, or none that recipes have, or has a value that it may not have.
    """
    cls = class_of(fields.get("method", ""))
    own = {field.name: field for field in dataclasses.fields(cls)}
    missing = [name for name in own if name not in fields and not own[name].metadata["later"] and name != "seed"]
    unknown = sorted(fields.keys() - all_fields().keys())
    if missing or unknown:
        parts = [f"it lacks {', '.join(missing)}"] * bool(missing) + [f"it has {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"Expected the fields of method '{fields['method']}'. Received: others; {'; '.join(parts)}.")
    return Recipe(**{name: value for name, value in fields.items() if name in own})
