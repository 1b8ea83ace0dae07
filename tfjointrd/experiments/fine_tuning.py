"""Trainings that begin with a trained network: fine-tuning on another data set, and after pruning."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from tfjointrd import data as datasets
from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, pruned_start
from tfjointrd.experiments.networks import check_fits, load_network
from tfjointrd.experiments.recipes import Recipe, Trained, all_fields, class_of
from tfjointrd.experiments.run_folder import RECIPE, Run, check_recipe, find_file, load_data, locked
from tfjointrd.experiments.runner import make_repeatable, run
from tfjointrd.files import replacing
from tfjointrd.pixel_ranges import PIXEL_RANGES
from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery import functional, new_head
from tfjointrd.surgery.pixel_range import misfits, says_its_range
from tfjointrd.training.engines import distribute

PRETRAINED = "pretrained.keras"
CLEARLY = 1.0  # how much better another range of pixels has to fit


def transfer(
    model: keras.Model | str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    runs: str | os.PathLike = "runs",
    **options,
) -> Run:
    """Fine-tunes a trained network on another data set: a new classifier, all weights trained.

    The network's last `Dense` layer is replaced by one for the classes of the data set (`tfjointrd.surgery.new_head`).
    Photographs come in the size that the network was trained for, unless `image_size` says otherwise. A finished
    training is loaded, and an interrupted one is continued, as by `tfjointrd.experiments.run`.

    Args:
        model: The trained network: a `keras.Model`, which is saved in `out`, the path of a `.keras` file, or the name
            of a recipe that is finished in `runs`. Images come as pixels from 0 to 255. A network that brings them to
            another range outside of its layers, as those of `keras.applications` without a `Rescaling` do, needs
            `pixel_range`.
        data: A data set by name, a folder of images or an `.npz` file; see `tfjointrd.data.load`.
        out: Folder for checkpoints, network and card.
        runs: Folder of the recipes' folders, for a name.
        **options: Fields of `Recipe`, as `epochs=10`, `learning_rate=0.02`, `batch_size=64`, `image_size`, `images` and
            `seed` (with these defaults), and arguments of `run`, as `verbose` and `note`. `pixel_range="-1..1"`, for
            pixels that the network was trained on: `"0..255"`, `"0..1"`, `"-1..1"` or `"imagenet"` (ImageNet's mean
            taken off, divided by its standard deviation). By default, if a network does not begin with a `Rescaling` or
            `Normalization`, the statistics of its first batch normalisation show the range.

    Returns:
        The finished `Run`, whose network is `run.networks["model"]`.

    Raises:
        FileNotFoundError: If there is no such network, or no such data.
        ValueError: If the network does not end in a `Dense` layer, cannot take the images or was trained on another
            range of pixels, or if `out` holds another training.
        BlockingIOError: If another process trains in `out`.
        Others: As `run`.

    Example:

    >>> plain = transfer("jointrd_resnet20_cifar10", "flowers/", out="runs/flowers_plain", epochs=5)
    >>> residual = transfer("resnet20_cifar10", "flowers/", out="runs/flowers_residual", epochs=5)
    >>> plain.accuracy("model"), residual.accuracy("model")

    Reference:
        Residual Distillation (NeurIPS 2020) fine-tunes plain networks and ResNets on MIT-67 and Caltech-101.
    """
    return begin_with("transfer", model, data, out, runs=runs, **options)


def prune_and_train(
    model: keras.Model | str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    method: str = "pruned",
    runs: str | os.PathLike = "runs",
    **options,
) -> Run:
    """Prunes a trained network to a budget and trains it on, on the data set that it was trained on.

    Photographs come in the size that the network was trained for, unless `image_size` says otherwise. A finished
    training is loaded, and an interrupted one goes on, with the channels that it began with.

    Args:
        model: As for `transfer`, with an output for each class of the data set.
        data: A data set by name, a folder of images or an `.npz` file; see `tfjointrd.data.load`.
        out: Folder for checkpoints, networks and card.
        method: `"pruned"`; `"pruned_gradually"`, step by step while it trains; `"pruned_distilled"`, with the outputs
            (`kd_weight`) or features (`feature_weight`) of the unpruned network as targets; or `"pruned_jointrd"`,
            through the later stages of a `teacher`.
        runs: Folder of the recipes' folders, for a name.
        **options: Fields of `Recipe`: those of `tfjointrd.prune`, as `importance`, `target_macs` (0.476 by default),
            `ratio` and `round_to`; `epochs=10`, of which 0 trains nothing, `learning_rate=0.01`, `batch_size=128`,
            `pixel_range` and so on. And arguments of `run`, as `verbose` and `note`. Neither learning rate nor epochs
            were tuned.

    Returns:
        The finished `Run`. `run.networks` holds `model`, the result, and what it is compared with: `unpruned`, and
        `pruned`, not trained since. The card has accuracies and costs of all three.

    Raises:
        ValueError: As for `tfjointrd.prune`; if the network does not fit the images or their classes, or was trained on
            another range of pixels; or if `out` holds another training.
        Others: As `transfer`.

    Example:

    >>> finished = prune_and_train("resnet20.keras", "digits", "small", ratio=0.3, epochs=1, formats=(), verbose=0)
    >>> list(finished.networks)
    ['unpruned', 'pruned', 'model']
    """
    return begin_with(method, model, data, out, runs=runs, **options)


def begin_with(
    method: str,
    model: keras.Model | str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    runs: str | os.PathLike = "runs",
    **options,
) -> Run:
    """What `transfer` and `prune_and_train` do, for a method that begins with a trained network."""
    chosen = {name: options.pop(name) for name in all_fields().keys() & options.keys()}
    if not issubclass(class_of(method), Trained):
        raise ValueError(f"Expected a method that begins with a trained network. Received: method='{method}'.")
    group = options.get("group") or distribute.Single()
    if options.get("deterministic", True):
        make_repeatable()  # now: loading a network computes already
    given = isinstance(model, keras.Model)
    if given:
        functional(model)  # refuses others before anything is written
    path = Path(out) / PRETRAINED if given else file_of(model, runs)
    new = not (Path(out) / RECIPE).exists()
    with group.alone():
        network = model if given else load_network(path)
        recipe = Recipe(**{**chosen, "method": method, "network": str(path), "data": os.fspath(data)})
        if new:
            pruned_start.check_budget(recipe, network)
        if recipe.image_size is None:
            recipe = replace(recipe, image_size=image_size_for(network, data))
        if new and recipe.get("pixel_range") is None and not says_its_range(network):
            _check_pixel_range(network, recipe, options.get("data_file"))
    if given:
        with group.alone(), nullcontext() if path.is_file() or not group.chief else locked(Path(out)):
            check_recipe(recipe, Path(out))
            _keep(model, path, write=group.chief)
        group.wait(f"{path} is written")
    return run(recipe, out, **options)


def _check_pixel_range(network: keras.Model, recipe: Recipe, data_file: str | os.PathLike | None) -> None:
    """Looks at whether images as they come are such as the network was trained on.

    Raises:
        ValueError: If another range fits clearly better.
    """
    train = load_data(recipe, augment=False, data_file=data_file).train
    images = np.asarray(keras.ops.convert_to_numpy(train.batch(0)[0]), "float32")
    if recipe.method == "transfer":  # its images may have another shape
        network = new_head(network, train.info.num_classes, images.shape[1:])
    check_fits(network, train.info)
    found = misfits(network, images)
    if not found:
        warnings.warn(
            f"'{network.name}' gets pixels from {images.min():g} to {images.max():g}, and neither its layers nor its "
            "statistics say whether it was trained on such ones. If it was not, name the range that it takes: "
            f"`pixel_range`, one of {', '.join(PIXEL_RANGES)}.",
            stacklevel=stacklevel_outside_the_package(),
        )
        return
    best = min(found, key=found.__getitem__)
    if found["0..255"] > found[best] + CLEARLY:
        raise ValueError(
            f"Expected `pixel_range`, since '{network.name}' gets pixels from {images.min():g} to {images.max():g} and "
            "was trained on others: what its first batch normalisation recorded fits "
            f"pixel_range='{best}' best (misfits {', '.join(f'{key}: {value:.1f}' for key, value in found.items())}). "
            f"Pass it, or '0..255' to leave the network as it is. Received: pixel_range=None."
        )


def file_of(model: str | os.PathLike, runs: str | os.PathLike = "runs") -> Path:
    """The `.keras` file that a path, or the name of a recipe finished in `runs`, stands for.

    Raises:
        FileNotFoundError: If there is no such file, or the recipe is not finished.
        ValueError: If it is neither.
    """
    name, runs = os.fspath(model), Path(runs)
    if name.endswith(".keras"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"Expected `model` to be a .keras file that exists. Received: model='{name}'.")
        return Path(name)
    if name not in catalog.names():
        raise ValueError(
            "Expected `model` to be a keras.Model, the path of a .keras file, or the name of a recipe. "
            f"Received: model='{name}'."
        )
    try:
        card = cards.read(runs / name)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Expected the recipe '{name}' to be finished in '{runs}'. `python -m tfjointrd run {name} --out {runs}` "
            "trains it."
        ) from None
    if "model" not in card["networks"]:
        raise ValueError(
            "Expected the .keras file of one of the recipe's networks "
            f"({', '.join(card['networks'])}, in '{runs / name}'). Received: model='{name}'."
        )
    return find_file(runs / name, "model.keras", seed=int(min(card["seeds"], key=int)))


def image_size_for(network: keras.Model, data: str | os.PathLike) -> int | None:
    """The side of the images that a network was trained for, where the data come in other sizes too.

    Raises:
        ValueError: If it takes no squares, as which images come.
    """
    info = datasets.info(os.fspath(data), download=True)
    height, width = network.inputs[0].shape[1:3]
    if info.resizable and height != width:
        raise ValueError(
            f"Expected a network of square images, as those of '{info.name}' come. Received: '{network.name}' for "
            f"{height}x{width}."
        )
    own, _, _ = info.input_shape
    smaller = height == width and isinstance(height, int) and height < own and not own % height
    return height if info.resizable or smaller else None


def _keep(network: keras.Model, path: Path, write: bool) -> None:
    """Saves the trained network beside what becomes of it, once.

    Raises:
        ValueError: If the file is there and of another network.
    """
    if path.is_file():
        if not _same_weights(load_network(path), network):
            raise ValueError(
                f"Expected a new folder, or the network that its training began with. Received: out='{path.parent}', "
                f"whose {path.name} has other weights than '{network.name}'."
            )
    elif write:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            network.save(part)


def _same_weights(first: keras.Model, second: keras.Model) -> bool:
    ours, theirs = first.get_weights(), second.get_weights()
    return len(ours) == len(theirs) and all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))
