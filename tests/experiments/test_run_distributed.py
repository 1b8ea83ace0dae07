"""One training by several processes or devices: the same networks as by one, a killed process included."""

import json
import socket
import time

import forked
import keras
import numpy as np
import pytest
from test_killed import small_network

from tfjointrd.__main__ import main
from tfjointrd.experiments.checkpoint import Checkpoints

# Two devices of a machine that has only a processor.
TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
"""
MAIN = """
import sys
from tfjointrd.__main__ import main
from tfjointrd.experiments import card
card.forms = dict  # no .tflite files, which take longer than the training
sys.exit(main(sys.argv[1:]))
"""


OPTIONS = ["--epochs", "2", "--batch-size", "240", "--learning-rate", "0.05"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "network.keras"
    keras.utils.set_random_seed(1)
    # Without ReLU's kink, at which the last bit of a sum decides about a gradient: kernels differ in it.
    small_network(dropout=0.0, activation="swish").save(path)
    return path


def start(backend, out, network, *options, count=1):
    """Starts the processes of one training."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{found.getsockname()[1]}"
    shared = {"TFJOINTRD_COORDINATOR": coordinator, "TFJOINTRD_PROCESSES": str(count)}
    recipe = ["--network", network, *OPTIONS]
    code = (TWO_DEVICES if backend == "tensorflow" else "") + MAIN
    arguments = ["train", "--out", out, *recipe, *options]
    return [
        forked.start(code, *arguments, backend=backend, TFJOINTRD_PROCESS=str(index), **shared)
        for index in range(count)
    ]


def weights(folder):
    (network,) = folder.glob("model.keras")
    return keras.saving.load_model(network).get_weights()


def assert_close(ours, theirs):
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(network, tmp_path):
    forked.finish(*start("jax", tmp_path / "one", network))
    options = ("--distribute", "processes", "--minutes", "0")
    first, second = start("jax", tmp_path / "two", network, *options, count=2)
    while second.poll() is None and not Checkpoints(tmp_path / "two").newest_name():
        time.sleep(0.01)
    second.kill()
    first.kill()  # it would notice after a while, and end too
    for process in (first, second):
        process.communicate()
    assert not (tmp_path / "two" / "card.json").exists()
    forked.finish(*start("jax", tmp_path / "two", network, *options, count=2))
    assert_close(tmp_path / "two", tmp_path / "one")
    (seed,) = json.loads((tmp_path / "two" / "card.json").read_text())["seeds"].values()
    assert seed["machine"]["devices"] == 2 and len(seed["history"]) == 2


def test_two_devices(network, tmp_path, no_files):
    recipe = ["--network", str(network), *OPTIONS]
    assert main(["train", "--out", str(tmp_path / "one"), *recipe, "--quiet"]) == 0
    forked.finish(*start("tensorflow", tmp_path / "two", network, "--distribute", "mirrored"))
    assert_close(tmp_path / "two", tmp_path / "one")
