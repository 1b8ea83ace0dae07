"""The examples in the package's docstrings run, and give what they say."""

import doctest
import importlib
import json
import pkgutil
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import tfjointrd
from tfjointrd.export import quantizer
from tfjointrd.surgery.importance import criterion
from tfjointrd.surgery.rules import rule

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(tfjointrd.__path__, "tfjointrd.")
    if not module.name.endswith("__main__")
]
EXAMPLES = {
    example.name.removeprefix("tfjointrd."): example
    for module in MODULES
    for example in doctest.DocTestFinder().find(module, module.__name__)
    if example.examples
}
# What this machine does not have.
ELSEWHERE = {
    "experiments.fine_tuning.transfer": "finished recipes and photographs",
    "report.layer_latencies.layer_latencies": "the latency that the example asks for",
    "training.engines.distribute.mirrored": "several devices",
    "training.engines.distribute.processes": "several processes on JAX",
    "training.engines.resident.fit": "the JAX backend",
}
# The functions by depth (`resnet50`) have their families' docstrings, with other numbers.
RUN = [name for name in EXAMPLES if name not in ELSEWHERE and not re.fullmatch(r"models\..*\d", name)]
SLOW = ("export.tf_keras_bridge.optimize.quantization_aware",)


def small_network(name="small"):
    return tfjointrd.models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1), name=name)


def compiled(model):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def names():
    """What examples take for granted: the package, a network and what trains it, and digits."""
    train, validation = tfjointrd.data.load("digits", batch_size=32)
    train.hold_out(0.9)  # leaves few enough to train on
    teacher = small_network("teacher")
    joint = tfjointrd.JointRD(tfjointrd.remove_shortcuts(teacher), teacher)
    dan = tfjointrd.search(small_network(), alphas=(1, 2))
    for method in (joint, dan):
        method.compile("sgd")
    return {
        **{"tfjointrd": tfjointrd, "jrd": tfjointrd, "keras": keras, "np": np, "json": json, "Path": Path},
        **{"data": tfjointrd.data, "export": tfjointrd.export, "report": tfjointrd.report},
        **{"train": train, "validation": validation, "images": validation.batch(0, 0)[0]},
        **{"model": compiled(small_network()), "network": small_network(), "teacher": teacher},
        **{"joint": joint, "dan": dan},
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory, names):
    """The files that examples read: what trainings wrote, networks for phones, a folder of photographs."""
    folder = tmp_path_factory.mktemp("files")
    for kind in ("cat", "dog"):
        for part in ("train", "val"):
            (folder / "photographs" / part / kind).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (160, 130)).save(folder / "photographs" / part / kind / f"{index}.png")
    runs = {"search": folder / "runs/search_resnet20_a2_cifar10", "joint": folder / "runs/jointrd_resnet20_cifar10"}
    for run in runs.values():
        (run / "seed0").mkdir(parents=True)
    recorder = tfjointrd.training.GradientRecorder(
        *names["validation"].batch(0, 0), path=runs["joint"] / "seed0/gradients.csv"
    )
    names["joint"].fit(names["train"], verbose=0, callbacks=[recorder])
    recorder = tfjointrd.training.GateRecorder(runs["search"] / "seed0/gates.csv")
    names["dan"].fit(names["train"], verbose=0, callbacks=[recorder])
    (runs["search"] / "architecture.json").write_text(json.dumps(names["dan"].architecture()))
    names["network"].save(folder / "resnet20.keras")
    tfjointrd.export.tflite(names["network"], folder / "resnet20.tflite")
    for name in ("plain20.tflite", "resnet20_int8.tflite"):
        shutil.copy(folder / "resnet20.tflite", folder / name)
    return folder


def test_examples_are_found():
    assert len(RUN) >= 49 and EXAMPLES.keys() > ELSEWHERE.keys()


@pytest.fixture
def registries(monkeypatch):
    """What examples register is known to no other test."""
    for owner, table in ((quantizer, "_QUANTIZERS"), (criterion, "_CRITERIA"), (rule, "_RULES")):
        copied = {key: dict(one) if isinstance(one, dict) else one for key, one in getattr(owner, table).items()}
        monkeypatch.setattr(owner, table, copied)


@pytest.fixture
def steps_of_tf_keras(request):
    """Trainings of a few steps are not traced, which would take longer than they."""
    import tensorflow as tf

    tf.config.run_functions_eagerly("tf_keras" in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUN])
def test_examples(name, names, files, tmp_path, monkeypatch, registries, steps_of_tf_keras):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    example, report = EXAMPLES[name], []
    example.globs = {**names, **example.globs}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
