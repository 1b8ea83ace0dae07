"""Examples of the README that have failed once."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from shallow import make_shallow

import tfjointrd as jrd

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_several_devices_with_the_data_of_the_first_example(monkeypatch):
    make_shallow(monkeypatch)
    train, test = jrd.data.load("digits", batch_size=64)
    train.hold_out(0.9)
    (code,) = (
        code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "distribute.mirrored()" in code
    )
    with pytest.warns(UserWarning, match="Expected several devices. Received: one"):
        exec(code.replace("epochs=10", "epochs=1, verbose=0"), names := {"jrd": jrd, "train": train, "test": test})
    assert names["pair"].small().input_shape == (None, 8, 8, 1)


def test_from_a_trained_network():
    """Each way from a trained network, as it stands, on few images."""
    train, test = jrd.data.load("digits", batch_size=64)
    train.hold_out(0.9)
    teacher = jrd.models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1))
    teacher.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    before = teacher.get_weights()
    (code,) = re.findall(r"### From a trained network\n\n```python\n(.*?)```", README, re.DOTALL)
    names = {"jrd": jrd, "keras": keras, "train": train, "test": test, "teacher": teacher}
    exec(code.replace("epochs=10", "epochs=2, verbose=0"), names)
    macs = [jrd.report.profile(network).macs for network in (teacher, names["small"], names["pair"].small())]
    assert macs[1] <= 0.5 * macs[0] and macs[2] < macs[0]
    for ours, theirs in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
