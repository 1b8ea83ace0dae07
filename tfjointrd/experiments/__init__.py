"""Trainings described as data, the runner that executes them, and the tables that collect their results."""

from tfjointrd.experiments import catalog
from tfjointrd.experiments.checkpoint_callback import Interrupted
from tfjointrd.experiments.methods import METHODS
from tfjointrd.experiments.recipe import SCALES, Recipe
from tfjointrd.experiments.run_by_name import run_named
from tfjointrd.experiments.run_folder import Run
from tfjointrd.experiments.runner import run
from tfjointrd.experiments.transfer import transfer

__all__ = ["METHODS", "SCALES", "Interrupted", "Recipe", "Run", "catalog", "run", "run_named", "transfer"]
