"""Recipes of the ways to distil: what they train, and what they refuse."""

import keras
import numpy as np
import pytest

from tfjointrd import data, models
from tfjointrd.experiments import Interrupted, Recipe, catalog, run
from tfjointrd.experiments.recipes import from_stored
from tfjointrd.experiments.trainers import METHODS, make_trainer
from tfjointrd.training import distillers


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "resnet8.keras"
    models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1)).save(path)
    return str(path)


def test_every_way_has_a_recipe():
    assert set(catalog.DISTILLED) == set(distillers.METHODS) - {"kd"}
    for network in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        for prefix, way in catalog.DISTILLED.items():
            recipe = catalog.get(f"{prefix}_narrow_{network}_a2_cifar10")
            assert (recipe.distill, recipe.alpha, recipe.kd_weight) == ((way,), 2, 0)
            assert recipe.teacher == catalog.get(f"kd_narrow_{network}_a2_cifar10").teacher


def test_numbers_stand_behind_a_name(small):
    assert distillers.get(catalog.DISTILLED["dkd"]).others_weight == 2
    recipe = Recipe(
        method="narrow_distilled", network=small, teacher=small, distill=("dkd:others_weight=3,temperature=1.5", "at")
    )
    decoupled, attention = make_trainer(recipe, data.info("digits")).methods
    assert (decoupled.others_weight, decoupled.temperature, type(attention)) == (3, 1.5, distillers.AT)


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        (("dkd:others_weight",), "as 'dkd:others_weight=2,temperature=4'. Received: 'dkd:others_weight'"),
        (("dkd:other_weight=2",), "Expected arguments of 'dkd', which are temperature, .* Received: 'other_weight'"),
        (("dkd:others_weight=2", "dkd"), "Expected each way to distil once"),
        (("dml:weight=2",), "'dml', which trains a cohort"),
    ],
)
def test_what_stands_behind_a_name_is_checked(small, ways, message):
    with pytest.raises(ValueError, match=message):
        Recipe(method="narrow_distilled", network=small, teacher=small, distill=ways)


def test_every_cohort_has_a_recipe():
    assert set(catalog.COHORTS) == set(distillers.PEER_METHODS)
    for way in catalog.COHORTS:
        recipe = catalog.get(f"{way}_narrow_resnet20_a2_cifar10")
        assert (recipe.method, recipe.distill, recipe.alpha) == ("narrow_cohort", (way,), 2)
        assert recipe.learning_rate == catalog.get("kd_narrow_resnet20_a2_cifar10").learning_rate


@pytest.mark.parametrize("way", ["dml", "kdcl"])
def test_a_cohort_hands_over_its_narrow_network(small, way):
    trainer = make_trainer(Recipe(method="narrow_cohort", network=small, distill=(way,)), data.info("digits"))
    assert type(trainer.method) is distillers.PEER_METHODS[way]
    narrow, full = trainer.networks
    assert [net.get_layer("stage2_block1_conv1").filters for net in (narrow, full)] == [16, 32]
    networks = METHODS["narrow_cohort"].networks(trainer)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(networks["model"](images), narrow(images), atol=1e-5)
    assert list(networks) == ["model"] and networks["model"].count_params() < full.count_params()


def test_an_interrupted_cohort_goes_on(small, tmp_path, no_files):
    """Both networks end as they do without the interruption."""
    recipe = Recipe(method="narrow_cohort", network=small, epochs=2, images=256, batch_size=128)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "stopped", verbose=0, callbacks=[Stop()])
    resumed = run(recipe, tmp_path / "stopped", verbose=0)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    for ours, theirs in zip(*(one.networks["model"].weights for one in (resumed, whole)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("distill", [("kd",), (), ("dml", "kdcl")])
def test_what_trains_no_cohort(small, distill):
    with pytest.raises(ValueError, match="one of dml, kdcl for method 'narrow_cohort'. Received: distill="):
        Recipe(method="narrow_cohort", network=small, distill=distill)


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
