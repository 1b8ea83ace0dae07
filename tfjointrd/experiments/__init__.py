"""Trainings described as data, the runner that executes them, and the tables that collect their results."""

from typing import TYPE_CHECKING

from tfjointrd import lazy as _lazy

if TYPE_CHECKING:
    from tfjointrd.experiments import catalog
    from tfjointrd.experiments.checkpoint_callback import Interrupted
    from tfjointrd.experiments.fine_tuning import prune_and_train, transfer
    from tfjointrd.experiments.live import Live
    from tfjointrd.experiments.paper_tables import paper_table, pruning_figure
    from tfjointrd.experiments.recipes import SCALES, Recipe
    from tfjointrd.experiments.run_by_name import run_named
    from tfjointrd.experiments.run_folder import Run
    from tfjointrd.experiments.runner import run
    from tfjointrd.experiments.trainers import METHODS

__all__ = [
    "METHODS",
    "SCALES",
    "Interrupted",
    "Live",
    "Recipe",
    "Run",
    "catalog",
    "paper_table",
    "pruning_figure",
    "prune_and_train",
    "run",
    "run_named",
    "transfer",
]

# The command line lists options and recipes, which need no Keras.
__getattr__ = _lazy.attributes(
    __name__,
    {
        "catalog": f"{__name__}.catalog",
        "Interrupted": f"{__name__}.checkpoint_callback",
        "METHODS": f"{__name__}.trainers",
        "SCALES": f"{__name__}.recipes",
        "Recipe": f"{__name__}.recipes",
        "run_named": f"{__name__}.run_by_name",
        "Run": f"{__name__}.run_folder",
        "run": f"{__name__}.runner",
        "Live": f"{__name__}.live",
        "paper_table": f"{__name__}.paper_tables",
        "pruning_figure": f"{__name__}.paper_tables",
        "prune_and_train": f"{__name__}.fine_tuning",
        "transfer": f"{__name__}.fine_tuning",
    },
)


def __dir__() -> list[str]:
    return list(__all__)
