"""A training that is killed with SIGKILL at any moment ends as if it had not been: bit for bit."""

import json
import random
import time
from pathlib import Path

import forked
import keras
import numpy as np
import pytest

from tfjointrd.experiments.checkpoint import Checkpoints

RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
WORKER = Path(__file__).with_name("killed_worker.py")


def convolution(x, filters, activation, strides=1):
    x = keras.layers.Conv2D(filters, 3, padding="same", strides=strides, use_bias=False)(x)
    return keras.layers.Activation(activation)(keras.layers.BatchNormalization(momentum=0.9)(x))


def small_network(dropout=0.2, activation="relu"):
    """With all that has a state: batch statistics, moments, random numbers."""
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    for stage, strides in ((1, 1), (2, 2)):
        x = shortcut = convolution(x, 8 * stage, activation, strides)
        x = keras.layers.Add()([convolution(x, 8 * stage, activation), shortcut])
        x = keras.layers.Activation(activation, name=f"stage{stage}_end")(x)
    x = keras.layers.Dropout(dropout)(x)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="small")


def start(folder, backend, *arguments):
    return forked.start(RUN, WORKER, folder, *arguments, backend=backend)


def result(folder):
    card = json.loads((folder / "card.json").read_text())
    (seed,) = card["seeds"].values()
    (folder / "again").mkdir(exist_ok=True)
    (folder / "last.npz").rename(folder / "again" / "checkpoint_000003_00000000.npz")
    checkpoint = Checkpoints(folder / "again").newest()
    networks = [keras.saving.load_model(folder / f"{name}.keras").get_weights() for name in card["networks"]]
    accuracies = [accuracy["keras"] for accuracy in seed["accuracy"].values()]
    return seed["history"], accuracies, checkpoint.variables, networks


def assert_same_bits(ours, theirs):
    assert ours[0] == theirs[0], "history"
    assert ours[1] == theirs[1], "accuracy"
    for group in ours[2]:
        for a, b in zip(ours[2][group], theirs[2][group], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=group)
    for a, b in zip(ours[3], theirs[3], strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def kill_until_done(folder, arguments, generator, kills):
    """Starts the training again and again, and kills it at random times after its first checkpoint of each start."""
    reached = []
    while len(reached) < kills:
        process = start(folder, *arguments)
        before = Checkpoints(folder).newest_name()
        while process.poll() is None and Checkpoints(folder).newest_name() == before:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.4))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        assert not (folder / "card.json").exists() or (folder / "last.npz").exists()
        reached.append(Checkpoints(folder).newest_name())
    forked.finish(start(folder, *arguments))
    return reached


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    keras.utils.set_random_seed(1)
    for name in ("network", "teacher"):
        small_network().save(folder / f"{name}.keras")
    return folder


@pytest.mark.parametrize(
    "method, kills, backend, batch_size",
    [
        ("jointrd", 1, "tensorflow", 96),
        pytest.param(
            "adjoined", 1, "jax", 8, marks=pytest.mark.slow
        ),  # where a checkpoint can be taken every hundred steps, an epoch has 180
    ],
)
def test_killed_at_random_times(files, tmp_path, method, kills, backend, batch_size):
    arguments = [backend, files / "network.keras", method, batch_size]
    arguments += [files / "teacher.keras"] if method == "jointrd" else []
    forked.finish(start(tmp_path / "whole", *arguments))
    seed = random.SystemRandom().randrange(10**6)  # the tests' own seed is always the same
    reached = kill_until_done(tmp_path / "killed", arguments, random.Random(seed), kills)
    assert reached, "was never killed"
    print(f"seed {seed}: killed after {reached}")
    assert_same_bits(result(tmp_path / "killed"), result(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "jointrd", "narrow", "adjoined", "search"])
def test_killed_five_times_each(files, tmp_path, method):
    test_killed_at_random_times(files, tmp_path, method, 5, "tensorflow", 96)
