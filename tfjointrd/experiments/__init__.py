"""Trainings described as data, the runner that executes them, and the tables that collect their results."""

from tfjointrd.experiments.recipe import METHODS, Recipe
from tfjointrd.experiments.runner import Interrupted, Run, run

__all__ = ["METHODS", "Interrupted", "Recipe", "Run", "run"]
