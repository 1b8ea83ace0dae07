"""A training as data: which network learns what, by which method, and how long."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import keras

from tfjointrd.data import DatasetInfo
from tfjointrd.experiments.methods import METHODS, RANDOM, build_network
from tfjointrd.layers.gates import check_alphas
from tfjointrd.surgery import new_head
from tfjointrd.surgery.initial import HE_NORMAL, INITIALIZERS, with_initializer
from tfjointrd.surgery.output_activation import final_activation

SCALES = ("smoke", "laptop", "study", "paper")
SCHEDULES = ("one_cycle", "steps")
OPTIMIZERS = ("sgd", "adam")
TAIL_SCHEDULES = ("cosine", "linear", "constant")
TEACHER_MODES = ("frozen", "joint")
PATH_SCALES = ("sum", "mean")
KEEP_PROJECTIONS = (False, True, "downsampling")
SCORED_ON = ("test", "held_out")
BUDGETS = ("macs", "parameters", "latency_ms")
TIES = ("shared", "free")
TAUGHT = (
    "distilled",
    "standard_distilled",
    "narrow_distilled",
    "jointrd",
    "jointrd_adjoined",
)  # methods with a teacher
MOMENTUM = 0.9
# Fields that other methods would not look at.
OF_METHODS = (
    (("narrow", "narrow_distilled", "adjoined", "search", "jointrd_adjoined"), ("alpha", "round_to")),
    (("plain", "distilled", "jointrd"), ("dirac",)),
    (("plain", "distilled", "jointrd", "jointrd_adjoined"), ("keep_projections",)),
    (("adjoined", "search", "jointrd_adjoined"), ("kl_epsilon",)),
    (TAUGHT, ("teacher", "kd_weight", "temperature", "feature_weight")),
    (("jointrd", "jointrd_adjoined"), ("tail_schedule", "tail_floor", "tail_fade", "path_scale", "teacher_mode")),
)


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        method: `standard` (the network as it is), `plain` (without its shortcuts), `distilled` (plain, with the outputs
            or features of `teacher` as targets), `standard_distilled` (the same with its shortcuts), `jointrd` (plain,
            through the later stages of `teacher`), `narrow` (every layer after the first stage `alpha` times narrower),
            `narrow_distilled` (the same, with the outputs of `teacher` as targets), `adjoined` (full and narrow on
            shared weights), `search` (the same, with widths that are learned), `jointrd_adjoined` (as `adjoined`,
            without shortcuts and by JointRD), or `transfer` (a trained network with a new classifier; see
            `tfjointrd.transfer`).
        network: Name of a network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file; for
            `transfer` the latter.
        data: Name of a data set; see `tfjointrd.data.load`.
        image_size: Side of the images in pixels; see `tfjointrd.data.load`.
        augment: Augmentation of the training images; see `tfjointrd.data.load`.
        images: Number of training images an epoch, and of validation images; all of them by default.
        held_out_for_validation: The part of the training images that nothing is trained on and that all settings are
            chosen by, the same ones for every seed. They are the validation images of the training then, and the set's
            own validation images, `test`, are looked at once, after the last epoch. By default the set's own are both.
        scored_on: The images that the accuracies of the finished training are measured on: `test`, or `held_out`, for
            trainings by which settings are chosen.
        epochs: Number of epochs.
        batch_size: Images a step.
        optimizer: `sgd` (Nesterov momentum 0.9) or `adam` (with decoupled weight decay).
        schedule: `one_cycle` (the learning rate rises over the first part `warmup` of the training and falls along a
            cosine to zero) or `steps` (it is divided by 10 at each of `milestones`).
        learning_rate: The highest learning rate.
        warmup: The part of the training over which the learning rate rises, for `one_cycle`.
        milestones: Epochs at whose beginning the learning rate falls, for `steps`.
        weight_decay: Decay of all weights but biases, batch normalisations' and Dirac convolutions' factors. For `sgd`
            it is the L2 penalty's factor, as papers and PyTorch count it; for `adam` the decoupled decay.
        initializer: How new convolutions and dense layers are drawn: `he_normal` as the networks of `tfjointrd.models`
            are (others as they are), or as the papers' authors draw theirs, `fan_out` (Residual Distillation) or
            `lecun_normal` (Adjoined Networks); see `tfjointrd.surgery.initial.with_initializer`.
        alpha: How many times narrower `narrow` and `adjoined` networks are. What such a network costs is the budget of
            a `search`.
        alphas: The candidates of a `search`.
        budget: What its budget is in: `macs`, `parameters` or `latency_ms`.
        target: Its budget, in place of what `alpha` names; see `tfjointrd.search`. Required where `budget` is
            `latency_ms`.
        latency_table: The file of a table of latencies, for a budget in milliseconds; see
            `tfjointrd.report.layer_latencies`.
        gamma: Weight of the expected multiply-accumulates of a `search`, in place of a budget where it is above 0.
        kl_epsilon: The term that the divergence of `adjoined` networks adds to both probabilities, 1e-6 in the paper;
            by default none, and the divergence is computed from logits.
        ties: Whether layers that an addition ties have one gate in a `search`, `shared`, or each its own, `free`.
        gate_warmup: The part of a `search` before widths begin to be learned.
        held_out: The part of the training images from which only the gates of a `search` learn; by default gates and
            weights learn from all.
        widths: The widths of the small network of `adjoined`, in place of `alpha`: a `.keras` file of a network that
            has them, the name of the recipe that searches for them, or `random`, with the budget of a `search`.
        round_to: Multiple that their widths are rounded to; 1 rounds down, as in the paper.
        dirac: Whether the convolutions of a plain network are trained as an identity plus a correction.
        keep_projections: Whether a plain network keeps the shortcuts that have weights, or only those that change the
            resolution, `"downsampling"`.
        teacher: The teacher, for methods that have one: a `.keras` file, or the name of the recipe that trains it.
        teacher_mode: `frozen`, or `joint`: the network with shortcuts is trained beside the plain one, from the same
            initial weights, and `teacher` is left out. For `jointrd`.
        tail_schedule: How the weight of the teacher's tails falls from 1, for `jointrd`: `cosine`, `linear`, or
            `constant`, which is always `tail_floor`.
        tail_floor: Lowest weight of the teacher's tails, for `jointrd`.
        tail_fade: The part of the training over which the tails' weight falls to it, for `jointrd`.
        path_scale: `sum` of the paths' losses, or their `mean`, for `jointrd`.
        kd_weight: Weight of the teacher's outputs as targets, for the distilled ones and `jointrd`.
        temperature: Temperature of these targets.
        feature_weight: Weight of the distance to the teacher's last feature map, likewise.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        name: The name under which it is registered, if it is.
        scale: `smoke`, `laptop`, `study` or `paper`, if it is registered.
    """

    method: str = "standard"
    network: str = "resnet20"
    data: str = "digits"
    image_size: int | None = None
    augment: bool | str = True
    images: int | None = None
    held_out_for_validation: float = 0.0
    scored_on: str = "test"
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    learning_rate: float = 0.1
    warmup: float = 0.1
    milestones: tuple[int, ...] = ()
    weight_decay: float = 5e-4
    initializer: str = HE_NORMAL
    alpha: int = 2
    round_to: int = 1
    alphas: tuple[float, ...] = (1, 2, 4)
    budget: str = "macs"
    target: float | None = None
    latency_table: str | None = None
    gamma: float = 0.0
    kl_epsilon: float | None = None
    ties: str = "shared"
    gate_warmup: float = 0.2
    held_out: float = 0.0
    widths: str | None = None
    dirac: bool = False
    keep_projections: bool | str = False
    teacher: str | None = None
    teacher_mode: str = "frozen"
    tail_schedule: str = "cosine"
    tail_floor: float = 0.5
    tail_fade: float = 0.3
    path_scale: str = "sum"
    kd_weight: float = 0.0
    temperature: float = 4.0
    feature_weight: float = 0.0
    seed: int = 0
    name: str = ""
    scale: str = ""

    def __post_init__(self):
        """Checks what can be checked without loading anything."""
        for name in ("milestones", "alphas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only
        for name in ("network", "data", "teacher", "widths", "latency_table"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        check_alphas(self.alphas)
        for name, known in (
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("initializer", INITIALIZERS),
            ("tail_schedule", TAIL_SCHEDULES),
            ("teacher_mode", TEACHER_MODES),
            ("path_scale", PATH_SCALES),
            ("keep_projections", KEEP_PROJECTIONS),
            ("scored_on", SCORED_ON),
            ("budget", BUDGETS),
            ("ties", TIES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected `{name}` to be one of {sorted(known, key=str)}. "
                    f"Received: {name}={getattr(self, name)!r}."
                )
        part = self.held_out_for_validation
        if not isinstance(part, int | float) or isinstance(part, bool) or not 0 <= part < 1:
            raise ValueError(
                f"Expected `held_out_for_validation` from 0 to below 1. Received: held_out_for_validation={part!r}."
            )
        if self.scored_on == "held_out" and not part:
            raise ValueError(
                "Expected `held_out_for_validation` above 0, to score on these images. Received: "
                f"held_out_for_validation={part}, scored_on='held_out'."
            )
        if self.teacher_mode == "joint" and not (self.method == "jointrd" and self.teacher is None):
            raise ValueError(
                "Expected `teacher_mode` 'joint' with method 'jointrd' and without `teacher`. Received: "
                f"method='{self.method}', teacher={self.teacher!r}."
            )
        if self.method in TAUGHT and self.teacher is None and self.teacher_mode == "frozen":
            raise ValueError(
                f"Expected `teacher`, a trained network's .keras file or recipe, for method '{self.method}'."
            )
        if self.method in ("distilled", "standard_distilled", "narrow_distilled") and not (
            self.kd_weight or self.feature_weight
        ):
            raise ValueError(
                f"Expected `kd_weight` or `feature_weight` above 0, for method '{self.method}'. Received: kd_weight=0, "
                "feature_weight=0."
            )
        if self.widths is not None and self.method != "adjoined":
            raise ValueError(
                f"Expected `widths` for method 'adjoined' only. Received: method='{self.method}', "
                f"widths={self.widths!r}."
            )
        self._check_search()
        if self.method == "jointrd_adjoined" and self.dirac:
            raise ValueError(
                "Expected ordinary convolutions, for method 'jointrd_adjoined': Dirac's have no adjoined form. "
                "Received: dirac=True."
            )
        if self.method == "transfer" and not self.network.endswith(".keras"):
            raise ValueError(
                "Expected `network` to be the .keras file of a trained network, for method 'transfer'. "
                f"Received: network='{self.network}'."
            )
        if self.network.endswith(".keras") and self.initializer != HE_NORMAL:
            raise ValueError(
                "Expected `initializer` for a network by name, since one from a .keras file keeps its weights. "
                f"Received: network='{self.network}', initializer='{self.initializer}'."
            )
        lowest = {"epochs": 1, "batch_size": 1, "alpha": 1, "round_to": 1, "seed": 0}
        lowest.update({name: 1 for name in ("image_size", "images") if getattr(self, name) is not None})
        for name, least in lowest.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"Expected `{name}` to be an integer from {least}. Received: {name}={value!r}.")
        if not self.learning_rate > 0:
            raise ValueError(f"Expected `learning_rate` above 0. Received: learning_rate={self.learning_rate}.")
        for name in ("tail_floor", "tail_fade", "kd_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected `{name}` from 0 to 1. Received: {name}={getattr(self, name)}.")
        if not (self.tail_fade > 0 and self.temperature > 0 and self.feature_weight >= 0):
            raise ValueError(
                "Expected `tail_fade` and `temperature` above 0 and `feature_weight` from 0. Received: "
                f"tail_fade={self.tail_fade}, temperature={self.temperature}, feature_weight={self.feature_weight}."
            )
        if self.kl_epsilon is not None and not 0 < self.kl_epsilon < 1:
            raise ValueError(
                f"Expected `kl_epsilon` above 0 and below 1, or None. Received: kl_epsilon={self.kl_epsilon}."
            )
        if not self.weight_decay >= 0:
            raise ValueError(f"Expected `weight_decay` from 0. Received: weight_decay={self.weight_decay}.")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(f"Expected ascending `milestones` from 1. Received: milestones={self.milestones}.")
        if self.milestones and self.schedule != "steps":
            raise ValueError(
                f"Expected `milestones` for schedule 'steps' only. Received: schedule='{self.schedule}', "
                f"milestones={self.milestones}."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Expected `warmup` from 0 to below 1. Received: warmup={self.warmup}.")
        for methods, names in OF_METHODS:
            given = self._given(names)
            if given and self.method not in methods:
                expected, received = (
                    ", ".join(map("`{}`".format, given)),
                    ", ".join(f"{k}={v!r}" for k, v in given.items()),
                )
                raise ValueError(
                    f"Expected {expected} for method {' or '.join(map(repr, methods))} only. Received: "
                    f"method='{self.method}', {received}."
                )

    def _given(self, names) -> dict:
        """Those of the named fields that have another value than by default."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}

    def check_files(self) -> None:
        """Checks that the files it needs exist.

        Raises:
            FileNotFoundError: If the teacher's, that of the network with the widths, or the latency table does not.
        """
        for name, other, kind in (
            ("teacher", None, ".keras"),
            ("widths", RANDOM, ".keras"),
            ("latency_table", None, "JSON"),
        ):
            value = getattr(self, name)
            if value not in (None, other) and not Path(value).is_file():
                raise FileNotFoundError(f"Expected `{name}` to be a {kind} file. Received: {name}='{value}'.")

    def _check_search(self) -> None:
        """Checks what belongs to a search, and to the budget of random widths."""
        for name, value in self._given(("target", "gamma", "gate_warmup", "held_out")).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"Expected `{name}` to be a number. Received: {name}={value!r}.")
        given = self._given(("alphas", "budget", "target", "latency_table", "gamma", "ties", "gate_warmup", "held_out"))
        if given and not (self.method == "search" or (self.widths == RANDOM and "held_out" not in given)):
            raise ValueError(
                f"Expected {', '.join(f'`{name}`' for name in given)} for method 'search' only. Received: "
                f"method='{self.method}', {', '.join(f'{name}={value!r}' for name, value in given.items())}."
            )
        if not self.gamma >= 0:
            raise ValueError(f"Expected `gamma` from 0. Received: gamma={self.gamma}.")
        if self.target is not None and not self.target > 0:
            raise ValueError(f"Expected `target` above 0. Received: target={self.target}.")
        if self.gamma and (self.target is not None or self.budget != "macs"):
            raise ValueError(
                "Expected either `gamma` or a budget. Received: "
                f"gamma={self.gamma}, budget='{self.budget}', target={self.target}."
            )
        if (self.budget == "latency_ms") != (self.latency_table is not None):
            raise ValueError(
                "Expected `latency_table` and budget 'latency_ms' together. Received: "
                f"latency_table={self.latency_table!r}, budget='{self.budget}'."
            )
        if self.budget == "latency_ms" and self.target is None:
            raise ValueError("Expected `target` in milliseconds for budget 'latency_ms'. Received: target=None.")
        for name in ("gate_warmup", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` from 0 to below 1. Received: {name}={getattr(self, name)}.")

    def as_dict(self) -> dict:
        """The recipe as plain data, as JSON would return it."""
        return {**asdict(self), "milestones": list(self.milestones), "alphas": list(self.alphas)}

    def make_optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """The optimizer with its learning-rate schedule, as yet without variables."""
        schedule = self._learning_rate(steps_per_epoch)
        if self.optimizer == "adam":
            optimizer = keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay, beta_2=0.99, epsilon=1e-6)
        else:
            # Keras takes the decay off the weights directly. Momentum, through which the gradient of an L2 penalty
            # would go, multiplies by 1 / (1 - momentum) in the long run.
            decay = self.weight_decay / (1 - MOMENTUM)
            optimizer = keras.optimizers.SGD(schedule, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
        optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(alpha|beta|bias|gamma)(:0)?$"])
        return optimizer

    def _learning_rate(self, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule | float:
        if self.schedule == "steps" and not self.milestones:
            return self.learning_rate
        if self.schedule == "steps":
            rates = [self.learning_rate * 0.1**i for i in range(len(self.milestones) + 1)]
            return keras.optimizers.schedules.PiecewiseConstantDecay(
                [epoch * steps_per_epoch - 1 for epoch in self.milestones], rates
            )
        steps = self.epochs * steps_per_epoch
        warmup = max(1, round(steps * self.warmup))
        return keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - warmup), warmup_target=self.learning_rate, warmup_steps=warmup
        )

    def trainer(self, info: DatasetInfo) -> keras.Model:
        """The model whose `fit` is this training, with new weights, or new ones of the classifier for `transfer`."""
        network = build_network(self.network, info)
        if self.method == "transfer":
            network = new_head(network, info.num_classes, info.input_shape)
            for layer in network.layers:
                layer.trainable = True
        if self.initializer != HE_NORMAL:
            network = with_initializer(network, self.initializer)
        _check_fits(network, info)
        return METHODS[self.method].trainer(self, network)


def _check_fits(network: keras.Model, info: DatasetInfo) -> None:
    """Whether a network takes the images of a data set and tells its classes apart."""
    shapes = [tuple(tensor.shape[1:]) for tensor in (*network.inputs, *network.outputs)]
    if shapes != [tuple(info.input_shape), (info.num_classes,)]:
        raise ValueError(
            f"Expected a `network` for images of shape {tuple(info.input_shape)} with one output for each of the "
            f"{info.num_classes} classes of '{info.name}'. Received: '{network.name}' for {shapes[0]} with outputs of "
            f"shape {', '.join(map(str, shapes[1:]))}. (Method 'transfer' gives a trained network a new classifier.)"
        )
    if final_activation(network) == "sigmoid":
        raise ValueError(
            f"Expected a `network` whose outputs are logits or a softmax of the classes of '{info.name}'. Received: "
            f"'{network.name}', which ends in a sigmoid."
        )
