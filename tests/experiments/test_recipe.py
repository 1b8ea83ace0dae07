import copy
import json
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from shallow import make_shallow

from tfjointrd import data, models
from tfjointrd.experiments import METHODS, Recipe, recipes
from tfjointrd.experiments.networks import build_network
from tfjointrd.experiments.optimizer import make_optimizer
from tfjointrd.experiments.trainers import make_trainer
from tfjointrd.layers import FusedBatchNormalization
from tfjointrd.surgery.initializers import INITIALIZERS


def test_methods_build_what_they_say(tmp_path, monkeypatch):
    make_shallow(monkeypatch)
    info = data.info("digits")
    teacher = tmp_path / "teacher.keras"
    models.resnet20(input_shape=info.input_shape).save(teacher)
    shapes = {}
    for method in METHODS:
        network = str(teacher) if issubclass(recipes.class_of(method), recipes.Trained) else "resnet20"
        taught = {"teacher": str(teacher), "kd_weight": 0.5} if method in recipes.methods_with("teacher") else {}
        recipe = Recipe(method=method, network=network, **taught)
        model = make_trainer(recipe, info)
        networks = METHODS[method].networks(model)
        shapes[method] = {name: network.count_params() for name, network in networks.items()}
        for network in networks.values():
            assert not any(isinstance(layer, FusedBatchNormalization) for layer in network.layers)
            assert network.output_shape == (None, 10)
    assert shapes["plain"] == shapes["jointrd"] == shapes["distilled"]
    assert shapes["transfer"] == shapes["pruned"] == shapes["pruned_jointrd"] == shapes["standard"]  # as yet
    assert shapes["adjoined"]["full"] == shapes["standard"]["model"] > shapes["plain"]["model"]
    assert shapes["adjoined"]["small"] == shapes["narrow"]["model"] < shapes["standard"]["model"] / 2


def test_narrow_baseline_starts_from_weights_of_its_own():
    """A slice of a wide layer's initial weights would be too small for a narrow one."""
    model = make_trainer(Recipe(method="narrow", network="wide_resnet18"), data.info("cifar10"))
    kernel = model.get_layer("stage4_block2_conv2").get_weights()[0]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.05)


def rates(recipe, steps_per_epoch, steps):
    schedule = make_optimizer(recipe, steps_per_epoch)._learning_rate
    return [float(schedule(step)) for step in steps]


def test_schedules():
    one_cycle = Recipe(learning_rate=0.2, epochs=10, warmup=0.1)
    np.testing.assert_allclose(rates(one_cycle, 10, (0, 5, 10, 55, 100)), [0, 0.1, 0.2, 0.1, 0], atol=1e-6)
    steps = Recipe(schedule="steps", milestones=[2, 3], learning_rate=1.0)
    np.testing.assert_allclose(rates(steps, 5, (0, 9, 10, 14, 15)), [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_decay_of_kernels_only(optimizer):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    for variable in model.weights:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(Recipe(learning_rate=0.2, optimizer=optimizer), 10)
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(10)
    optimizer.apply([np.zeros(v.shape, "float32") for v in model.trainable_variables], model.trainable_variables)
    decayed = {v.name: float(np.mean(v)) < 1 for v in model.trainable_variables}
    assert decayed == {"kernel": True, "bias": False, "gamma": False, "beta": False}


def test_sgd_decay_is_that_of_an_l2_penalty():
    """Where nothing but the decay acts, weights fall as they do under momentum on the penalty's gradient."""
    recipe = Recipe(learning_rate=0.1, weight_decay=1e-3, schedule="steps")
    kernel = keras.Variable([1.0], name="kernel")
    optimizer = make_optimizer(recipe, 1)
    optimizer.build([kernel])
    weight, velocity = 1.0, 0.0
    for _ in range(500):
        optimizer.apply([np.zeros(1, "float32")], [kernel])
        gradient = 1e-3 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.1 * (gradient + 0.9 * velocity)  # Nesterov, as PyTorch writes it
    assert float(kernel.numpy()[0]) == pytest.approx(weight, rel=0.01)


def test_networks_of_all_kinds(tmp_path):
    info = data.info("cifar10")
    assert build_network("resnet20", info).name
    mobile = build_network("MobileNetV2", info)
    assert mobile.get_layer("normalization") and mobile.output_shape == (None, 10)
    trainer = make_trainer(Recipe(network="MobileNetV2", method="adjoined"), info)
    assert trainer.small().count_params() < mobile.count_params()
    efficient = build_network("EfficientNetV2B0", info)  # has a normalisation of its own
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in efficient.layers) == 1
    path = tmp_path / "own.keras"
    models.resnet20(num_classes=4).save(path)
    assert build_network(str(path), info).output_shape == (None, 4)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"method": "magic"}, ValueError, "one of .*adjoined.* Received: method='magic'"),
        ({"method": "jointrd"}, ValueError, "Expected `teacher`"),
        ({"epochs": 0}, ValueError, "Expected `epochs` to be an integer from 1. Received: epochs=0"),
        ({"epochs": 2.5}, ValueError, "Received: epochs=2.5"),
        ({"images": 0}, ValueError, "Expected `images` .* Received: images=0"),
        ({"image_size": 0}, ValueError, "Expected `image_size` .* Received: image_size=0"),
        ({"seed": -1}, ValueError, "Received: seed=-1"),
        ({"weight_decay": -1.0}, ValueError, "Received: weight_decay=-1.0"),
        ({"milestones": (8, 4)}, ValueError, r"Expected ascending `milestones` .* Received: milestones=\(8, 4\)"),
        ({"batch_size": -1}, ValueError, "Received: batch_size=-1"),
        ({"learning_rate": 0.0}, ValueError, "Received: learning_rate=0.0"),
        ({"warmup": 1.0}, ValueError, "Expected `warmup` .* Received: warmup=1.0"),
        ({"initializer": "magic"}, ValueError, "one of .*'fan_out'.* Received: initializer='magic'"),
        ({"network": "own.keras", "initializer": "fan_out"}, ValueError, "keeps its weights. Received: .*'own.keras'"),
        ({"method": "search", "kl_epsilon": 0.0}, ValueError, "above 0 and below 1, or None. Received: kl_epsilon=0.0"),
        ({"method": "plain", "kl_epsilon": 1e-6}, ValueError, "Expected `kl_epsilon` for method 'adjoined' or"),
        ({"optimizer": "lion"}, ValueError, "one of .*adam.* Received: optimizer='lion'"),
        ({"schedule": "linear"}, ValueError, "Received: schedule='linear'"),
        ({"method": "jointrd", "teacher": "x", "path_scale": "median"}, ValueError, "Received: path_scale='median'"),
        ({"method": "plain", "keep_projections": "some"}, ValueError, "Received: keep_projections='some'"),
        (
            {"method": "jointrd", "teacher": "x", "tail_floor": 3.0},
            ValueError,
            "Expected `tail_floor` from 0 to 1. Received: tail_floor=3.0",
        ),
        ({"method": "distilled", "teacher": "x", "kd_weight": 7}, ValueError, "from 0 to 1. Received: kd_weight=7"),
        ({"method": "jointrd", "teacher": "x", "temperature": -1.0}, ValueError, "above 0. Received: temperature=-1.0"),
        ({"method": "distilled", "teacher": "x", "feature_weight": "a"}, ValueError, "a number from 0. Received"),
        ({"learning_rate": float("nan")}, ValueError, "Expected `learning_rate` above 0. Received"),
        ({"method": "adjoint"}, ValueError, "Received: method='adjoint'. Did you mean 'adjoined'?"),
        ({"milestones": (1.5,), "schedule": "steps"}, ValueError, "`milestones` to list numbers. Received"),
        ({"milestones": 5}, ValueError, "`milestones` to list numbers. Received: milestones=5"),
        ({"method": "search", "alphas": 2}, ValueError, "`alphas` to list numbers. Received: alphas=2"),
        ({"method": "plain", "dirac": "no"}, ValueError, "`dirac` to be True or False. Received: dirac='no'"),
        ({"data": None}, ValueError, "`data` to be text. Received: data=None"),
        ({"network": 5}, ValueError, "`network` to be text. Received: network=5"),
        ({"learning_rate": float("inf")}, ValueError, "Expected `learning_rate` above 0. Received"),
        ({"epoch": 3}, ValueError, "fields that recipes have. Received: epoch. Did you mean `epochs`?"),
        ({"method": "distilled", "teacher": "x.keras"}, ValueError, "Expected `kd_weight` or `feature_weight`"),
        ({"method": "jointrd_adjoined", "teacher": "x.keras", "dirac": True}, ValueError, "Received: .*dirac=True"),
        ({"method": "standard", "teacher_mode": "joint"}, ValueError, "Received: method='standard'"),
        (
            {"method": "jointrd_adjoined", "teacher": "x", "teacher_mode": "joint"},
            ValueError,
            "'joint' with method 'jointrd' and without `teacher`. Received: method='jointrd_adjoined'",
        ),
        ({"method": "adjoined", "dirac": True}, ValueError, "Expected `dirac` for method 'plain' .*method='adjoined'"),
        ({"kd_weight": 0.9, "teacher": "x"}, ValueError, "Expected `kd_weight`, `teacher` for method 'distilled' or"),
        (
            {"method": "jointrd", "teacher": "x", "alpha": 4},
            ValueError,
            "Expected `alpha` for method 'narrow' .*alpha=4",
        ),
        ({"method": "adjoined", "alphas": (2, 4)}, ValueError, "`alphas` for method 'search' or widths 'random' only"),
        ({"milestones": (2, 4)}, ValueError, r"`milestones` for schedule 'steps' only. .*milestones=\(2, 4\)"),
        ({"method": "plain", "tail_floor": 0.1}, ValueError, "Expected `tail_floor` for .*'plain', tail_floor=0.1"),
        ({"network": "x.keras", "method": "transfer", "images": True}, ValueError, "Received: images=True"),
    ],
)
def test_recipes_that_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        Recipe(**arguments)


@pytest.mark.parametrize("method", ["adjoined", "search", "jointrd_adjoined"])
def test_the_term_in_the_divergence(method, tmp_path, monkeypatch):
    make_shallow(monkeypatch)
    models.cifar_resnet(8, input_shape=(8, 8, 1)).save(tmp_path / "teacher.keras")
    teacher = {"teacher": str(tmp_path / "teacher.keras")} if method == "jointrd_adjoined" else {}
    for epsilon in (None, 1e-5):
        trainer = make_trainer(Recipe(method=method, kl_epsilon=epsilon, **teacher), data.info("digits"))
        assert (trainer.student if teacher else trainer).epsilon == epsilon


@pytest.mark.parametrize("method", ["standard", "plain", "narrow", "adjoined"])
def test_weights_are_drawn_as_the_recipe_says(method, monkeypatch):
    make_shallow(monkeypatch)
    for initializer, scale in (("he_normal", 2), ("lecun_normal", 1)):
        trainer = make_trainer(Recipe(method=method, initializer=initializer), data.info("digits"))
        network = trainer.full() if method == "adjoined" else trainer
        kernel = keras.ops.convert_to_numpy(network.get_layer("stage3_block1_conv2").kernel.value)
        assert kernel.var() == pytest.approx(scale / (9 * kernel.shape[2]), rel=0.1)


@pytest.mark.parametrize("name", ["resnet21", "ResNet51", "GlobalAveragePooling2D"])
def test_networks_that_do_not_exist(name):
    with pytest.raises(ValueError, match=f"Received: network='{name}'"):
        build_network(name, data.info("digits"))
    with pytest.raises(FileNotFoundError, match="nowhere.keras"):
        build_network("nowhere.keras", data.info("digits"))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((8, 8, 1), 4, r"one output for each of the 10 classes of 'digits'. Received: .* outputs of shape \(4,\)"),
        ((None, None, 1), 10, r"images of shape \(8, 8, 1\) .* Received: .* for \(None, None, 1\)"),
        ((8, 8, 3), 10, r"images of shape \(8, 8, 1\) .* Received: .* for \(8, 8, 3\)"),
    ],
)
def test_networks_that_do_not_fit_the_data(tmp_path, shape, classes, message):
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    path = tmp_path / "network.keras"
    keras.Model(inputs, keras.layers.Dense(classes)(x)).save(path)
    with pytest.raises(ValueError, match=message):
        make_trainer(Recipe(network=path), data.info("digits"))


# === What follows from a field ===


def test_the_class_of_a_recipe_is_its_methods():
    for method, cls in recipes.METHODS.items():
        assert cls.summary and cls.__doc__ and cls.__dataclass_fields__["method"].default == method
        for name in cls.names() - {"method"}:
            assert f"        {name}: " in cls.__doc__, (method, name)
    recipe = Recipe(method="adjoined", alpha=4)
    assert type(recipe) is recipes.METHODS["adjoined"] and replace(recipe, alpha=8).alpha == 8
    assert copy.deepcopy(recipe) == recipe and pickle.loads(pickle.dumps(recipe)) == recipe
    with pytest.raises(ValueError, match="method 'adjoined' for AdjoinedRecipe. Received: method='narrow'"):
        replace(recipe, method="narrow")
    assert recipes.METHODS.keys() == METHODS.keys()


def test_stored_recipes_of_earlier_versions():
    stored = Recipe(method="narrow", alpha=4, seed=3).as_dict()
    assert recipes.from_stored(json.loads(json.dumps(stored))) == Recipe(method="narrow", alpha=4, seed=3)
    older = {**stored, "tail_floor": 0.5, "dirac": False}  # every recipe had the fields of all methods
    del older["held_out_for_validation"], older["round_to"]
    assert recipes.from_stored(older) == Recipe(method="narrow", alpha=4, seed=3)
    del older["epochs"]
    with pytest.raises(ValueError, match="the fields of method 'narrow'. Received: others; it lacks epochs"):
        recipes.from_stored({**older})
    with pytest.raises(ValueError, match="it has magic"):
        recipes.from_stored({**stored, "magic": 1})


def test_initializers_are_those_of_surgery():
    assert recipes.all_fields()["initializer"].metadata["values"].choices == INITIALIZERS
