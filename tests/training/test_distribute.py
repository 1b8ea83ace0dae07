"""Several devices and processes reach the weights of one; all of it in processes of its own."""

import os
import re
import signal
import socket
from pathlib import Path

import forked
import keras
import numpy as np
import pytest

from tfjointrd import JointRD, adjoin, remove_shortcuts
from tfjointrd.data import ArrayPipeline, DatasetInfo
from tfjointrd.training.engines import distribute

RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
WORKER = Path(__file__).with_name("distributed_worker.py")
MODELS = ("plain", "adjoined", "jointrd", "dan")
WRITTEN = {"plain": ("plain", "uneven"), "adjoined": ("adjoined", "small")}  # by the training of each


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(kind, folder, task, models=MODELS, count=1):
    """Starts the workers; `forked.finish` waits for them."""
    folder.mkdir(exist_ok=True)
    environment = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TFJOINTRD_COORDINATOR": f"127.0.0.1:{free_port()}",
        "TFJOINTRD_PROCESSES": str(count),
    }
    backend, kinds = "tensorflow" if kind == "mirrored" else "jax", "+".join(models)
    return [
        forked.start(
            RUN, WORKER, kind, folder, task, kinds, backend=backend, TFJOINTRD_PROCESS=str(index), **environment
        )
        for index in range(count)
    ]


def assert_same(models, one, two):
    for name in (name for model in models for name in WRITTEN.get(model, (model,))):
        with np.load(one / f"{name}_1.npz") as expected, np.load(two / f"{name}_2.npz") as actual:
            assert set(expected) == set(actual)
            for key in expected:
                np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5, atol=1e-5, err_msg=f"{name} {key}")


@pytest.fixture(scope="module")
def models(pytestconfig):
    """What processes train: a search has the layers of an adjoined network, and noise that all have to draw alike."""
    return MODELS if pytestconfig.getoption("--slow") else ("plain", "jointrd", "dan")


@pytest.fixture(scope="module")
def one(tmp_path_factory, models):
    """The folder of what one process trains, without interruption."""
    folder = tmp_path_factory.mktemp("one")
    forked.finish(*start("processes", folder, "train+resume", models))
    return folder


def test_processes_train_like_one_and_start_again_after_a_kill(one, models, tmp_path):
    """The processes that have trained networks go on to the training in which one of them is killed."""
    chief, other = start("processes", tmp_path, "train+die", models, count=2)
    errors, _ = chief.communicate()[1], other.communicate()
    assert other.returncode == -signal.SIGKILL and chief.returncode != 0, errors[-3000:]
    assert_same(models, one, tmp_path)
    assert [path.name for path in tmp_path.glob("epoch*")] == ["epoch1.keras"]
    forked.finish(*start("processes", tmp_path, "resume", count=2))
    assert_same(["resumed"], one, tmp_path)


def test_devices_train_like_one(tmp_path):
    forked.finish(*start("mirrored", tmp_path, "train"))
    assert_same(MODELS, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [(0, r"process 0 of 2 at .* waited in vain"), (1, "Expected the coordinator, process 0, to answer at ")],
)
def test_nobody_there(index, message):
    code = "from tfjointrd.training import distribute; distribute.processes('127.0.0.1:{}', 2, {}, timeout=4)"
    process = forked.start(code.format(free_port(), index))
    error = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and re.search(message, error), error[-3000:]


def test_no_cluster_and_too_late(monkeypatch):
    code = """
import keras
from tfjointrd.training.engines import distribute
for arguments in ([], ["127.0.0.1:1", 2, 0]):
    try:
        distribute.processes(*arguments)
    except RuntimeError as error:
        print(error)
    keras.ops.ones(1)
"""
    for name in os.environ:
        if name.startswith(("TFJOINTRD", "SLURM", "OMPI")):
            monkeypatch.delenv(name)
    none, late = forked.run(code).splitlines()
    assert "or a cluster that JAX knows. Received: neither" in none
    assert "Expected `processes` to be called before JAX computes" in late


# === shares ===


def numbered(size, batch_size, **options):
    """Images whose pixels are their index."""
    info = DatasetInfo("numbered", 2, (1, 1, 1), (0.0,), (1.0,))
    x = np.arange(size, dtype="uint8").reshape(size, 1, 1, 1)
    return ArrayPipeline(x, np.arange(size) % 2, info, batch_size, **{"training": True, **options})


def shares(pipeline, count, devices=None, **options):
    return [distribute.Share(pipeline, index, count, devices or count, **options) for index in range(count)]


def together(parts, position, epoch=None):
    """The images of one batch that all processes serve, and how many each serves."""
    batches = [part.batch(position, epoch) for part in parts]
    rows = [len(labels) for _, labels in batches]
    images = np.concatenate([images.reshape(-1) for images, _ in batches])
    np.testing.assert_array_equal(images % 2, np.concatenate([labels for _, labels in batches]))
    return images, rows


def test_shares_are_the_rows_of_the_batch():
    pipeline = numbered(24, 8)
    parts = shares(pipeline, 4)
    assert [len(part) for part in parts] == [3] * 4
    for epoch in range(2):
        for position in range(3):
            images, rows = together(parts, position, epoch)
            np.testing.assert_array_equal(images, pipeline.batch(position, epoch)[0].reshape(-1))
            assert rows == [2] * 4


def test_shares_keep_the_pipelines_order_and_limit():
    pipeline = numbered(24, 8)
    pipeline.limit(10)
    first, second = shares(pipeline, 2)
    np.testing.assert_array_equal(first.order(3), pipeline.order(3))
    assert len(second) == 2
    with pytest.raises(ValueError, match="Expected `limit` to be called on the pipeline before it is shared"):
        first.limit(5)


@pytest.mark.parametrize(("size", "repeats"), [(6, 2), (5, 4), (4, 1), (1, 4)])
def test_a_last_batch_that_does_not_divide_is_repeated(size, repeats):
    parts = shares(numbered(8 + size, 8), 2, devices=4)
    images, rows = together(parts, 1)
    assert rows == [size * repeats // 2] * 2 and rows[0] % 2 == 0
    assert set(np.unique(images, return_counts=True)[1]) == {repeats}
    assert together(parts, 0)[1] == [4, 4]


def test_in_validation_every_image_counts_alike():
    parts = shares(numbered(14, 8, training=False), 4)
    images = np.concatenate([together(parts, position)[0] for position in range(2)])
    np.testing.assert_array_equal(np.bincount(images.astype(int)), [2] * 14)


def test_drop_last():
    parts = shares(numbered(13, 4), 2, drop_last=True)
    assert len(parts[0]) == 3 and together(parts, 2)[1] == [2, 2]
    with pytest.raises(ValueError, match="Received: 3 images in batches of 4"):
        shares(numbered(3, 4), 2, drop_last=True)


def test_shares_go_on_where_the_pipeline_is():
    pipeline = numbered(8, 4)
    pipeline.set_epoch(3)
    (part, _) = shares(pipeline, 2)
    assert part.epoch == 3
    np.testing.assert_array_equal(part[1][0], pipeline.batch(1, 3)[0][:2])


def test_data_that_cannot_be_shared():
    with pytest.raises(ValueError, match="divides among 3 devices. Received: batch_size=8"):
        shares(numbered(8, 8), 3)
    with pytest.raises(ValueError, match="Received: pipeline=1"):
        shares(1, 2)


# === arguments ===


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, 2), "`index` from 0 to 1 for 2 processes. Received: index=2"),
        (("host:1", 2, None), "together, .* Received: coordinator='host:1', count=2, index=None"),
        (("host", 2, 0), "'address:port'. Received: coordinator='host'"),
        (("host:1", 0, 0), "at least 1. Received: count=0"),
        (("host:1", "two", 0), "to be a number. Received: 'two'"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=message):
        distribute.processes(*arguments)


def test_backends(monkeypatch):
    wrong = {"tensorflow": distribute.processes, "jax": distribute.mirrored}[keras.backend.backend()]
    with pytest.raises(RuntimeError, match="Expected the backend .* Received: .* On"):
        wrong()


def test_one_device_is_warned_of():
    with pytest.warns(UserWarning, match="Received: one"):
        group = distribute.mirrored(["CPU:0"])
    assert (group.devices, group.chief, distribute.is_chief()) == (1, True, True)


@pytest.mark.parametrize(
    "make", [lambda net: adjoin(net, 2, round_to=1), lambda net: JointRD(remove_shortcuts(net), net)]
)
def test_statistics_of_one_device_are_refused(make, tiny, monkeypatch):
    net = tiny()
    monkeypatch.setattr("tfjointrd.layers.batch_normalization.replicas", lambda: 2)
    with pytest.raises(ValueError, match="'stem_bn' with synchronized=False"):
        make(net)
