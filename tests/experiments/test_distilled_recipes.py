"""Recipes of the ways to distil: what they train, and what they refuse."""

import keras
import pytest

from tfjointrd import data, models
from tfjointrd.experiments import Recipe, catalog
from tfjointrd.experiments.recipes import from_stored
from tfjointrd.experiments.trainers import make_trainer
from tfjointrd.training import distillers


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "resnet8.keras"
    models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1)).save(path)
    return str(path)


def test_every_way_has_a_recipe():
    assert set(catalog.DISTILLED) == set(distillers.METHODS) - {"kd"}
    for network in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        for way in catalog.DISTILLED:
            recipe = catalog.get(f"{way}_narrow_{network}_a2_cifar10")
            assert (recipe.distill, recipe.alpha, recipe.kd_weight) == ((way,), 2, 0)
            assert recipe.teacher == catalog.get(f"kd_narrow_{network}_a2_cifar10").teacher


def test_methods_of_a_recipe(small):
    recipe = Recipe(
        method="narrow_distilled",
        network=small,
        teacher=small,
        distill=("kd", "rkd"),
        temperature=2.0,
        feature_weight=1e-3,
    )
    trainer = make_trainer(recipe, data.info("digits"))
    assert [type(method) for method in trainer.methods] == [distillers.Overhaul, distillers.KD, distillers.RKD]
    assert trainer.methods[1].temperature == 2.0
    assert trainer.student.get_layer("stage2_block1_conv1").filters == 16
    assert isinstance(trainer, keras.Model)


def test_cards_of_earlier_versions_have_no_such_field(small):
    fields = Recipe(method="narrow_distilled", network=small, teacher=small, kd_weight=0.5).as_dict()
    del fields["distill"]
    assert from_stored(fields).distill == ()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"distill": ("rdk",)}, "one of kd, .* Received: 'rdk'. Did you mean rkd"),
        ({"distill": ("dml",)}, "Received: 'dml', which trains a cohort"),
        (
            {"distill": ("kd",), "kd_weight": 0.5},
            "each way to distil once; .* Received: distill=\\('kd',\\), kd_weight=0.5",
        ),
        ({}, "Expected `kd_weight` or `feature_weight` above 0, or `distill`, for"),
    ],
)
def test_what_cannot_be_distilled(small, fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(method="distilled", network=small, teacher=small, **fields)
