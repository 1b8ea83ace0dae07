"""What the training of a pruned network begins with: the trained network, which channels are kept, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from tfjointrd import data
from tfjointrd.experiments.networks import network_of
from tfjointrd.experiments.recipes import Pruned, Recipe
from tfjointrd.experiments.run_folder import ARCHITECTURE, RECIPE
from tfjointrd.files import write_json
from tfjointrd.progress import Line, Steps
from tfjointrd.surgery import prune_architecture, slim
from tfjointrd.surgery.importance.criterion import Criterion, resolve
from tfjointrd.surgery.importance.norms import Random
from tfjointrd.surgery.pruning_plan import PruningPlan
from tfjointrd.surgery.read_graph import read_graph

GRADUAL = "pruned_gradually"  # the method that drops channels while it trains
RANKED_ON = 2048  # images, at most
COMPARED = {"pruned": "kept to compare with, as it was before it was trained on"}  # network -> why it has no files


def kept_channels(recipe: Recipe, train: data.Pipeline, folder: Path, verbose: bool = True) -> dict[str, Any] | None:
    """Which channels a recipe's training keeps, as `tfjointrd.surgery.prune_architecture` describes it.

    An interrupted training keeps those that it began with.

    Args:
        recipe: The recipe; its network is a file.
        train: The training images, on some of which criteria rank channels that need images.
        folder: The folder of the training.
        verbose: Whether to print what is going on.

    Returns:
        The description, or `None` for a recipe that does not prune.

    Raises:
        ValueError: As for `tfjointrd.prune`, or if the network does not fit the data.
    """
    if not isinstance(recipe, Pruned) or recipe.method == GRADUAL:
        return None
    if (folder / RECIPE).is_file() and (folder / ARCHITECTURE).is_file():
        return json.loads((folder / ARCHITECTURE).read_text())
    line = Line(verbose)
    found = rank(recipe, network_of(recipe, train.info), _images(train, line))
    costs = {"macs": "multiply-accumulates", "parameters": "parameters"}
    left = [f"{found[f'full_{key}']:,} to {found[key]:,} {name}" for key, name in costs.items() if key in found]
    line.end(f"Pruned {Path(recipe.network).name} by {recipe.importance}: {', '.join(left)}")
    return found


def rank(recipe: Pruned, network: keras.Model, images: Any = None) -> dict[str, Any]:
    """Which channels of a network a recipe keeps.

    Args:
        recipe: The recipe.
        network: The network.
        images: Images with labels, for criteria that need them.

    Raises:
        ValueError: As for `tfjointrd.prune`.
    """
    importance = importance_of(recipe)
    found = prune_architecture(network, importance, data=images if _needs_data(importance) else None, **recipe.budget())
    return {**found, "importance": recipe.importance}


def importance_of(recipe: Pruned) -> Any:
    """The criterion of a recipe; by seeds, where it is chance."""
    return Random(recipe.seed) if recipe.importance == "random" else recipe.importance


def ranking_images(recipe: Pruned, train: data.Pipeline) -> data.Pipeline | None:
    """Images of the training without augmentation by which it ranks channels again and again, if it needs them."""
    return _ranking_images(train) if _needs_data(importance_of(recipe)) else None


def check_budget(recipe: Recipe, network: keras.Model) -> None:
    """Refuses a budget that a network cannot keep to, before images are read.

    Raises:
        ValueError: As for `tfjointrd.prune`.
    """
    if isinstance(recipe, Pruned):
        PruningPlan(read_graph(network), **recipe.budget())


def keep(architecture: dict[str, Any] | None, folder: Path) -> None:
    """Writes into a folder which channels its training keeps, once."""
    if architecture is not None and not (folder / ARCHITECTURE).exists():
        write_json(folder / ARCHITECTURE, architecture)


def networks_before(
    recipe: Recipe, info: data.DatasetInfo, architecture: dict[str, Any] | None
) -> dict[str, keras.Model]:
    """The networks that the trained one is compared with: `unpruned`, and `pruned`, if it was trained on since."""
    if not isinstance(recipe, Pruned):
        return {}
    unpruned = network_of(recipe, info)
    if architecture is None:  # pruned while it was trained
        return {"unpruned": unpruned}
    return {"unpruned": unpruned, **({"pruned": slim(unpruned, architecture["kept"])} if recipe.epochs else {})}


def _needs_data(importance: Any) -> bool:
    criterion = resolve(importance, 0)
    return isinstance(criterion, Criterion) and criterion.needs_data


def _ranking_images(train: data.Pipeline) -> data.Pipeline:
    images = train.unaugmented(shuffled=True)
    images.limit(RANKED_ON)
    return images


def _images(train: data.Pipeline, line: Line) -> Iterator:
    """Batches of the training's images without augmentation, counted on a line of the terminal as they are taken."""
    images = _ranking_images(train)
    steps = Steps(len(images))
    for position in range(len(images)):
        yield images.batch(position, 0)
        line.write(f"Ranking channels: {steps.next()}")
