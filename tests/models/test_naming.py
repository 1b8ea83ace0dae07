"""Functions by depth read like functions written by hand."""

import inspect
import pickle
import re

import pytest

from tfjointrd import models

DEPTHS = [name for name in models.__all__ if name[-1].isdigit()]


def test_help_shows_the_functions_own_name_and_arguments():
    for name in DEPTHS:
        function, depth = getattr(models, name), re.search(r"\d+$", name)[0]
        assert function.__name__ == name
        assert list(inspect.signature(function).parameters)[:2] == ["num_classes", "input_shape"]
        family = {"x": "XResNet", "d": "DenseNet"}.get(name[0], "ResNet")
        assert function.__doc__.startswith(f"{family}-{depth} for ")
        assert "depth:" not in function.__doc__
        assert f"tfjointrd.models.{name}(num_classes=100).output_shape" in function.__doc__


def test_functions_can_be_pickled():
    assert pickle.loads(pickle.dumps(models.resnet20)) is models.resnet20


def test_unknown_arguments_name_the_function():
    with pytest.raises(TypeError, match="shortcuts"):
        models.resnet20(shortcuts="A")
