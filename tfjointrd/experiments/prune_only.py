"""Pruning by weights alone: no images, no training, a narrow network and its files within seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import pruned_start
from tfjointrd.experiments.fine_tuning import file_of
from tfjointrd.experiments.networks import trained_network
from tfjointrd.experiments.recipes import Recipe
from tfjointrd.experiments.recipes.trained import PrunedRecipe
from tfjointrd.experiments.run_folder import ARCHITECTURE, check_free, check_recipe, claim, locked
from tfjointrd.experiments.table import Row, row_of
from tfjointrd.export import quantize
from tfjointrd.files import replacing, write_json
from tfjointrd.surgery import slim


def prune_only(
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    runs: str | os.PathLike = "runs",
    say: Callable[[str], None] = lambda text: None,
    **fields,
) -> list[Row]:
    """Prunes a trained network by its weights, and exports what is left.

    `out` gets `model.keras`, the network as it was, `unpruned.keras`, the `.tflite` files of both, and
    `architecture.json`, which says what was kept. There is no card, since nothing was measured on images.

    Args:
        model: The path of a `.keras` file, or the name of a recipe that is finished in `runs`.
        out: Folder for networks and files.
        runs: Folder of the recipes' folders, for a name.
        say: Is told what is going on.
        **fields: Fields of `Recipe(method="pruned")`. `formats` are by default those that need no images.

    Returns:
        The rows `unpruned` and `pruned` of a table, without accuracies.

    Raises:
        ValueError: As for `tfjointrd.prune`; if the criterion or a format needs images; or if `out` holds another
            training.
        FileNotFoundError: If there is no such network.
        PermissionError: If `out` cannot be written.
        BlockingIOError: If another process works in `out`.

    Example:

    >>> rows = prune_only("resnet20.keras", "pruned", target_macs=0.5, formats=["float32"])
    >>> [row.name for row in rows]
    ['unpruned', 'pruned']
    """
    known, out = quantize.defaults(), Path(out)
    fields.setdefault("formats", [name for name in Recipe().formats if not known[name].needs_images])
    recipe = PrunedRecipe(
        **{**fields, "method": "pruned", "network": str(file_of(model, runs)), "data": "", "epochs": 0}
    )
    calibrated = [name for name in recipe.formats if known[name].needs_images]
    if calibrated:
        raise ValueError(
            f"Expected `data` for the formats {', '.join(calibrated)}, which are calibrated on images. Received: none."
        )
    check_free(out)
    check_recipe(recipe, out)
    network = trained_network(recipe)
    architecture = pruned_start.rank(recipe, network)
    networks = {"unpruned": network, "model": slim(network, architecture["kept"])}
    with locked(out):
        claim(recipe, out)
        write_json(out / ARCHITECTURE, architecture)
        rows = []
        for name, one in networks.items():
            say(f"Writing network {name} ...")
            with replacing(out / f"{name}.keras") as part:
                one.save(part)
            _, failed = cards.export_files(one, name, out, recipe.formats)
            entry = {**cards.costs_of(one), **cards.files_of(out, name, failed)}
            rows.append(row_of("pruned" if name == "model" else name, None, entry, name, recipe.formats, out.joinpath))
    return rows
