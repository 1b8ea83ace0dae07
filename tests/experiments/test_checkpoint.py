"""Checkpoints: whole or not there, and back to the bit."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tfjointrd.experiments.checkpoint import Checkpoints, variables_of
from tfjointrd.files import write_json


def trained(units=3, dtype=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, dtype=dtype), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
    generator = np.random.default_rng(0)
    model.fit(generator.random((8, 4)), generator.random((8, units)), verbose=0)
    return model


def values(model):
    return {
        group: [keras.ops.convert_to_numpy(v).copy() for v in found] for group, found in variables_of(model).items()
    }


def test_all_that_training_changes_comes_back(tmp_path):
    model = trained()
    before = values(model)
    # kernel, bias and the dropout's random state; iteration, rate and two moments each; two means of sum and count
    assert [len(before[group]) for group in ("model", "optimizer", "metrics")] == [3, 6, 4]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, 2, 5, {"history": [{"loss": 0.1}]})
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    checkpoint = checkpoints.newest()
    assert (checkpoint.epoch, checkpoint.position, checkpoint.progress) == (2, 5, {"history": [{"loss": 0.1}]})
    assert checkpoints.newest_name() == (2, 5)
    checkpoint.restore(model, ("model", "optimizer", "metrics"))
    for group, expected in before.items():
        for ours, theirs in zip(values(model)[group], expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_bfloat16(tmp_path):
    model = trained(dtype="bfloat16")
    before = values(model)["model"]
    Checkpoints(tmp_path).save(model, 0, 1, {})
    model.layers[0].kernel.assign(np.zeros((4, 3)))
    Checkpoints(tmp_path).newest().restore(model, ("model",))
    for ours, theirs in zip(values(model)["model"], before, strict=True):
        np.testing.assert_array_equal(ours.astype("float32"), theirs.astype("float32"))


def test_two_are_kept_newest_first(tmp_path):
    model, checkpoints = trained(), Checkpoints(tmp_path)
    for epoch, position in ((0, 9), (0, 10), (1, 0), (10, 2)):
        checkpoints.save(model, epoch, position, {})
    assert len(list(tmp_path.iterdir())) == 2 and checkpoints.newest_name() == (10, 2)
    (tmp_path / ".checkpoint_000011_00000000.1.part.npz").touch()
    checkpoints.clear()
    assert not list(tmp_path.iterdir()) and checkpoints.newest() is None and checkpoints.newest_name() is None


@pytest.mark.parametrize("how", ["half", "empty", "flipped", "rubbish", "beginning"])
def test_damaged_files_are_skipped(tmp_path, how, capsys):
    model, checkpoints = trained(), Checkpoints(tmp_path)
    checkpoints.save(model, 0, 0, {})
    checkpoints.save(model, 1, 0, {})
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    at = content.index(values(model)["model"][0].tobytes())
    damaged = {
        "half": content[: len(content) // 2],
        "empty": b"",
        "flipped": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "rubbish": b"x" * len(content),
        "beginning": bytes(512) + content[512:],
    }
    newest.write_bytes(damaged[how])
    assert checkpoints.newest().epoch == 0
    assert "Skipped a checkpoint that cannot be read" in capsys.readouterr().out
    checkpoints.save(model, 0, 5, {})  # the damaged one, newer by its name, makes room
    assert checkpoints.newest().position == 5 and len(list(tmp_path.iterdir())) == 2


def test_other_schemas_and_networks_are_refused(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(trained(), 0, 0, {})
    other = trained(units=5)
    before = values(other)
    with pytest.raises(ValueError, match=r"Received: .*npz, with 6, one of shape \(4, 3\) for \(4, 5\)"):
        checkpoints.newest().restore(other, ("optimizer", "model"))
    for ours, theirs in zip(values(other)["optimizer"], before["optimizer"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr("tfjointrd.experiments.checkpoint.SCHEMA", 2)
    with pytest.raises(ValueError, match="Expected a checkpoint of schema 2.* Received: .* of schema 1"):
        checkpoints.newest()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n' and len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_does_not_answer_costs_no_checkpoint(tmp_path, monkeypatch):
    model = trained()
    Checkpoints(tmp_path).save(model, 1, 0, {})

    def fail(self):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(OSError, match="Input/output error"):
            Checkpoints(tmp_path).newest()
    assert Checkpoints(tmp_path).newest().epoch == 1
