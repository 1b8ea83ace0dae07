"""The core on Keras' JAX backend, with TensorFlow out of reach: the same tests in a process of their own."""

import json
import os
import subprocess
import sys

import forked
import keras
import pytest
from jax_process import JAX, NO_TENSORFLOW, run_tests

from tfjointrd.__main__ import main

FILES = [
    "tests/experiments/test_pruned.py",
    "tests/layers/test_adjoined_by_hand.py",
    "tests/layers/test_adjoined_layers.py",
    "tests/layers/test_gates.py",
    "tests/parity/test_masked_formula.py",
    "tests/training/test_adjoined_training.py",
    "tests/training/test_dan.py",
    "tests/training/test_gradient_recorder.py",
    "tests/training/test_jointrd.py",
    "tests/training/test_pruning.py",
    "tests/training/test_recalibration.py",
    "tests/training/test_tasks.py",
    "tests/training/distillers",
]
# One case of each kind: every case compiles anew on JAX.
SELECTED = (
    "test_config_round_trip or test_batch_normalisations or test_convolution[keep_in2-keep_out2-2-1-same]"
    " or test_grouped_convolution[2-3-True] or test_depthwise_convolution[1-3]"
    " or test_layer_by_hand[both_masks] or test_layer_by_hand_with or test_a_network_by_hand"
    " or test_loss_is_eqn_3[logits] or test_loss_is_eqn_6 or (test_loss and test_jointrd and not test_losses)"
    " or test_pipelines_count"
    " or test_who_moves or (test_saved_and_trained_on and (test_dan or test_jointrd))"
    " or test_shared_batch or (test_several_outputs and test_dan)"
    " or test_adjoined[multi_label] or test_distillation[regression]"
    " or (test_jointrd and averaged) or test_labels_in_generators"
    " or test_convolution_is_the_sum_of_masked_ones[options0-alphas1] or test_gates_that_do_not_learn"
    " or test_what_was_dropped_stays_so"
    " or test_all_at_once"
    " or test_norms_and_cosine_are_those_by_hand"
)


def test_core_on_jax():
    assert run_tests(*FILES, "-k", SELECTED) >= 36


@pytest.mark.slow
def test_more_of_the_core_on_jax():
    more = "test_an_interrupted_pruning or test_gradually or test_nothing_moves[adjoined] or test_saved_and_trained_on"
    assert run_tests(*FILES, "-k", more) >= 5


@pytest.mark.slow
def test_every_distiller_on_jax():
    assert run_tests("tests/training/distillers", "-k", "value_and_gradient or phase_one or matter") >= 16


def test_recipes_import_without_tensorflow():
    subprocess.run(
        [sys.executable, "-c", f"{NO_TENSORFLOW}import tfjointrd.experiments, tfjointrd.__main__"],
        env={**os.environ, **JAX},
        check=True,
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "small.keras"
    x = inputs = keras.Input((8, 8, 1))
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))).save(path)
    return path


def test_a_checkpoint_within_a_block_is_gone_on_from(network, tmp_path):
    """`fit`, on another backend or in several processes, may stop where resident training has no border."""
    code = """
import sys, keras
from tfjointrd.experiments import Interrupted, Recipe, checkpoint, run, runner
class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt
recipe, folder = Recipe(network=sys.argv[2], epochs=2, batch_size=16, images=96), sys.argv[1]
fits, runner._fits_device = runner._fits_device, lambda *arguments: False
try:
    run(recipe, folder, verbose=0, minutes=0, callbacks=[Stop()])
except Interrupted:
    assert checkpoint.Checkpoints(folder).newest_name() == (0, 3)
runner._fits_device = fits
assert len(run(recipe, folder, verbose=0).card["seeds"]["0"]["history"]) == 2
"""
    forked.run(code, tmp_path, network)
    assert "checkpoint_000000_00000003.npz" not in os.listdir(tmp_path)


def test_training_by_recipe(network, tmp_path):
    """The command line trains on a machine that has no TensorFlow, as accelerators may."""
    code = "import sys; from tfjointrd.__main__ import main; sys.exit(main(sys.argv[1:]))"
    options = ["--network", str(network), "--epochs", "1", "--batch-size", "480", "--out", str(tmp_path)]
    forked.run(code, "train", "--method", "adjoined", *options)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["networks"]["full"]["not_exported"]["int8"] == "trained on the backend jax"
    # Where there is TensorFlow, the same command adds the files.
    assert main(["train", "--method", "adjoined", *options]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    files = {"small.keras", "small_float32.tflite", "small_int8.tflite"}
    assert set(card["networks"]["small"]["files"]) == files <= {path.name for path in tmp_path.iterdir()}
    accuracy = card["seeds"]["0"]["accuracy"]["small"]
    assert accuracy["float32"] == pytest.approx(accuracy["keras"], abs=0.003)
