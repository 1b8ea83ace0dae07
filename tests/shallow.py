"""Networks of few layers under the names of deep ones, for tests of the way that a recipe goes."""

import functools

from tfjointrd import models
from tfjointrd.experiments import catalog


def make_shallow(patch, *names):
    """Until the patch ends, recipes and command line build these networks with 8 layers."""
    for name in names or ("resnet20",):
        patch.setattr(models, name, functools.partial(models.cifar_resnet, 8))


def change_smoke(patch, name, **fields):
    """Until the patch ends, a recipe's smoke scale has these fields."""
    scales = catalog._RECIPES[name]
    patch.setitem(catalog._RECIPES, name, {**scales, "smoke": {**scales["smoke"], **fields}})


def make_short(patch, *names, **fields):
    """Until the patch ends, these recipes take three steps at scale smoke, with further fields of their own."""
    for name in names:
        change_smoke(patch, name, epochs=1, images=96, **fields)
