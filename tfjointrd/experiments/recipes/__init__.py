"""A training as data: which network learns what, by which method, and how long.

A method is one class in `methods` or `trained`, with the fields that it looks at: `Recipe(method="adjoined")` makes an
`AdjoinedRecipe`. A field is described once, there. Checks, documentation, cards and the options of `python -m tfjointrd
train` follow from that. `tfjointrd.experiments.trainers` has, under the same names, how the methods train. None of this
imports Keras.
"""

from tfjointrd.experiments.recipes import methods
from tfjointrd.experiments.recipes.base import (
    METHODS,
    RANDOM,
    SCALES,
    SCORED_ON,
    Recipe,
    all_fields,
    class_of,
    from_stored,
    methods_with,
)
from tfjointrd.experiments.recipes.trained import Pruned, Trained

__all__ = [
    "METHODS",
    "RANDOM",
    "SCALES",
    "SCORED_ON",
    "Pruned",
    "Recipe",
    "Trained",
    "all_fields",
    "class_of",
    "from_stored",
    "methods",
    "methods_with",
]


def __dir__() -> list[str]:
    return list(__all__)
