"""A training as data: which network learns what, by which method, and how long."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from tfjointrd import models
from tfjointrd.data import DatasetInfo
from tfjointrd.surgery import dirac, fold, new_head, remove_shortcuts
from tfjointrd.surgery.swap import with_fused_batch_normalization, with_keras_batch_normalization
from tfjointrd.training import Adjoined, Constant, CosineFade, Distillation, JointRD, LinearFade, adjoin

SCALES = ("smoke", "laptop", "paper")
SCHEDULES = ("one_cycle", "steps")
OPTIMIZERS = ("sgd", "adam")
TAIL_SCHEDULES = ("cosine", "linear", "constant")
TEACHER_MODES = ("frozen", "joint")
PATH_SCALES = ("sum", "mean")
KEEP_PROJECTIONS = (False, True, "downsampling")
TAUGHT = ("distilled", "narrow_distilled", "jointrd", "jointrd_adjoined")  # methods with a teacher
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        method: `standard` (the network as it is), `plain` (without its shortcuts), `distilled` (plain, with the outputs
            or features of `teacher` as targets), `jointrd` (plain, through the later stages of `teacher`), `narrow`
            (every layer after the first stage `alpha` times narrower), `narrow_distilled` (the same, with the outputs
            of `teacher` as targets), `adjoined` (full and narrow on shared weights), `jointrd_adjoined` (the same,
            without shortcuts and by JointRD), or `transfer` (a trained network with a
            new classifier; see `tfjointrd.transfer`).
        network: Name of a network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file; for
            `transfer` the latter.
        data: Name of a data set; see `tfjointrd.data.load`.
        image_size: Side of the images in pixels, for folders and photographs; see `tfjointrd.data.load`.
        augment: Augmentation of the training images; see `tfjointrd.data.load`.
        images: Number of training images an epoch, and of validation images; all of them by default.
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
        alpha: How many times narrower `narrow` and `adjoined` networks are.
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
        scale: `smoke`, `laptop` or `paper`, if it is registered.
    """

    method: str = "standard"
    network: str = "resnet20"
    data: str = "digits"
    image_size: int | None = None
    augment: bool | str = True
    images: int | None = None
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    learning_rate: float = 0.1
    warmup: float = 0.1
    milestones: tuple[int, ...] = ()
    weight_decay: float = 5e-4
    alpha: int = 2
    round_to: int = 1
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
        object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON has lists only
        for name, known in (
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("tail_schedule", TAIL_SCHEDULES),
            ("teacher_mode", TEACHER_MODES),
            ("path_scale", PATH_SCALES),
            ("keep_projections", KEEP_PROJECTIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected `{name}` to be one of {sorted(known, key=str)}. "
                    f"Received: {name}={getattr(self, name)!r}."
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
        if self.method in ("distilled", "narrow_distilled") and not (self.kd_weight or self.feature_weight):
            raise ValueError(
                f"Expected `kd_weight` or `feature_weight` above 0, for method '{self.method}'. Received: kd_weight=0, "
                "feature_weight=0."
            )
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
        if not self.weight_decay >= 0:
            raise ValueError(f"Expected `weight_decay` from 0. Received: weight_decay={self.weight_decay}.")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(f"Expected ascending `milestones` from 1. Received: milestones={self.milestones}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Expected `warmup` from 0 to below 1. Received: warmup={self.warmup}.")

    def check_files(self) -> None:
        """Checks that the files it needs exist.

        Raises:
            FileNotFoundError: If the teacher's does not.
        """
        if self.teacher is not None and not Path(self.teacher).is_file():
            raise FileNotFoundError(f"Expected `teacher` to be a .keras file. Received: teacher='{self.teacher}'.")

    def as_dict(self) -> dict:
        """The recipe as plain data, as JSON would return it."""
        return {**asdict(self), "milestones": list(self.milestones)}

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
        return METHODS[self.method].trainer(self, network)


@dataclass(frozen=True)
class Method:
    """A way to train: what is fitted, and which networks come out of it.

    Attributes:
        trainer: `(recipe, network) -> model` whose `fit` trains.
        networks: `model -> {name: network}`, the networks to deploy; they hold Keras' own layers only.
    """

    trainer: Callable[[Recipe, keras.Model], keras.Model]
    networks: Callable[[keras.Model], dict[str, keras.Model]]


def _single(model: keras.Model) -> dict[str, keras.Model]:
    return {"model": with_keras_batch_normalization(fold(model))}


def _narrow(recipe: Recipe, network: keras.Model) -> keras.Model:
    small = adjoin(network, recipe.alpha, round_to=recipe.round_to).small(name=f"{network.name}_narrow")
    return with_fused_batch_normalization(keras.models.clone_model(small))  # the clone has new weights


def _plain(recipe: Recipe, network: keras.Model) -> keras.Model:
    plain = remove_shortcuts(network, recipe.keep_projections)
    return with_fused_batch_normalization(dirac(plain) if recipe.dirac else plain)


def _teacher(recipe: Recipe) -> keras.Model:
    return keras.saving.load_model(recipe.teacher, compile=False)


def _distilled(recipe: Recipe, network: keras.Model) -> keras.Model:
    targets = {"alpha": recipe.kd_weight, "temperature": recipe.temperature, "feature_weight": recipe.feature_weight}
    make = _narrow if recipe.method == "narrow_distilled" else _plain
    return Distillation(make(recipe, network), _teacher(recipe), **targets)


def _jointrd(recipe: Recipe, network: keras.Model) -> keras.Model:
    student = _plain(recipe, network)
    if recipe.method == "jointrd_adjoined":
        student = adjoin(student, recipe.alpha, round_to=recipe.round_to)
    joint = recipe.teacher_mode == "joint"
    return JointRD(
        student,
        with_fused_batch_normalization(network) if joint else _teacher(recipe),
        tail_weight={
            "cosine": CosineFade(recipe.tail_floor, recipe.tail_fade),
            "linear": LinearFade(recipe.tail_floor, recipe.tail_fade),
            "constant": Constant(recipe.tail_floor),
        }[recipe.tail_schedule],
        feature_weight=recipe.feature_weight,
        alpha=recipe.kd_weight,
        temperature=recipe.temperature,
        teacher_mode=recipe.teacher_mode,
        path_scale=recipe.path_scale,
        strict=not recipe.keep_projections,
    )


def _jointrd_networks(model: JointRD) -> dict[str, keras.Model]:
    networks = _single(model.student)
    return {**networks, "teacher": with_keras_batch_normalization(model.teacher)} if model.joint else networks


def _adjoined(recipe: Recipe, network: keras.Model) -> Adjoined:
    return adjoin(network, recipe.alpha, round_to=recipe.round_to)


def _adjoined_networks(model: Adjoined) -> dict[str, keras.Model]:
    networks = {"full": model.full(), "small": model.small()}
    return {name: with_keras_batch_normalization(network) for name, network in networks.items()}


def _standard(recipe: Recipe, network: keras.Model) -> keras.Model:
    return with_fused_batch_normalization(network)


METHODS: dict[str, Method] = {
    "standard": Method(_standard, _single),
    "plain": Method(_plain, _single),
    "distilled": Method(_distilled, lambda model: _single(model.student)),
    "jointrd": Method(_jointrd, _jointrd_networks),
    "narrow": Method(_narrow, _single),
    "narrow_distilled": Method(_distilled, lambda model: _single(model.student)),
    "adjoined": Method(_adjoined, _adjoined_networks),
    "jointrd_adjoined": Method(_jointrd, lambda model: _adjoined_networks(model.student)),
    "transfer": Method(_standard, _single),
}


def build_network(name: str, info: DatasetInfo) -> keras.Model:
    """Builds a network for a data set.

    Args:
        name: A network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file.
        info: The data set.

    Returns:
        A functional `keras.Model` that takes raw pixels.

    Raises:
        ValueError: If there is no such network; the message names the nearest ones.
        FileNotFoundError: If a `.keras` file does not exist.
    """
    if name.endswith(".keras"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"Expected `network` to be a .keras file that exists. Received: network='{name}'.")
        return keras.saving.load_model(name, compile=False)
    if name in own_networks():
        build = getattr(models, name)
        return build(num_classes=info.num_classes, input_shape=info.input_shape, mean=info.mean, std=info.std)
    application = getattr(keras.applications, name, None)
    if not callable(application):
        known = [*own_networks(), *(n for n in dir(keras.applications) if n[0].isupper())]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ValueError(
            f"Expected `network` to be one of tfjointrd.models ({', '.join(own_networks())}), of keras.applications, "
            f"or a .keras file. Received: network='{name}'." + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    body = application(weights=None, classes=info.num_classes, input_shape=info.input_shape, classifier_activation=None)
    if any(isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)) for layer in body.layers):
        return body
    inputs = keras.Input(info.input_shape, name="pixels")
    std = [max(s, 1e-3) for s in info.std]
    offsets = [-m / s for m, s in zip(info.mean, std, strict=True)]
    outputs = body(keras.layers.Rescaling([1 / s for s in std], offsets, name="normalization")(inputs))
    return keras.Model(inputs, outputs, name=name.lower())


def own_networks() -> list[str]:
    """Names of the networks of `tfjointrd.models`."""
    families = ("cifar_resnet", "densenet", "imagenet_resnet", "wide_resnet", "xresnet")
    return [name for name in models.__all__ if name not in families]
