"""Training on the accelerator equals `model.fit`. All but two tests need JAX and run in a process of their own."""

import jax
import keras
import numpy as np
import pytest
from jax_process import run_tests

import tfjointrd as jrd
from tfjointrd.data import ArrayPipeline, DatasetInfo
from tfjointrd.training.engines import resident

L = keras.layers
ON_JAX = keras.backend.backend() == "jax"
on_jax = pytest.mark.skipif(not ON_JAX, reason="runs on JAX, by test_on_jax_without_tensorflow")


@pytest.mark.skipif(ON_JAX, reason="is itself that process")
def test_on_jax_without_tensorflow():
    assert run_tests(__file__) >= 50


@pytest.mark.skipif(ON_JAX, reason="is about other backends")
def test_other_backends_are_named():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=f"KERAS_BACKEND=jax .*Received: backend='{keras.backend.backend()}'"):
        resident.fit(model, None, epochs=1)


@pytest.fixture(autouse=True)
def loops(monkeypatch):
    """Blocks are compiled loops, as on an accelerator."""
    monkeypatch.setattr(resident, "_loops_are_fast", lambda: True)


# === Data and networks ===


def pipeline(size=70, batch_size=16, training=True, padding=2, flip=True, classes=3, seed=0):
    """Images of three classes that can be told apart; 70 images make four batches and a smaller one."""
    rng = np.random.default_rng(training)
    y = rng.integers(0, classes, size)
    x = rng.integers(0, 100, (size, 8, 8, 1))
    x[:, 2:5, 2:5, 0] += 70 * y[:, None, None]
    info = DatasetInfo("set", classes, (8, 8, 1), (0.0,), (1.0,))
    augmentation = {"padding": padding, "flip": flip} if training else {}
    return ArrayPipeline(x.astype("uint8"), y, info, batch_size, training=training, seed=seed, **augmentation)


def dense(rate=0.01):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Rescaling(1 / 255), L.Flatten(), L.Dense(3)])
    return compiled(model, rate=rate)


def convolutional(tiny):
    """With moving statistics and a random-number generator among its variables."""
    keras.utils.set_random_seed(0)
    layers = [L.Rescaling(1 / 255), L.Conv2D(4, 3), L.BatchNormalization(momentum=0.8), L.ReLU()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, L.GlobalAveragePooling2D(), L.Dropout(0.2), L.Dense(3)])
    return compiled(model)


def jointrd(tiny):
    keras.utils.set_random_seed(0)
    return compiled(jrd.JointRD(tiny(shortcuts=False, name="student"), tiny(name="teacher")))


def adjoined(tiny):
    keras.utils.set_random_seed(0)
    return compiled(jrd.adjoin(tiny(), alpha=2, round_to=1))


def compiled(model, rate=None):
    own = isinstance(model, (jrd.JointRD, jrd.Adjoined))
    loss = None if own else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(0.002, 15) if rate is None else rate
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss, metrics=["accuracy"])
    return model


def values(variables):
    return [np.array(variable.value) for variable in variables]


def everything(model):
    return values([*model.variables, *model.optimizer.variables])


# === Equal to `fit` ===


@on_jax
@pytest.mark.parametrize("size", [64, 70, 9])
@pytest.mark.parametrize(("padding", "flip"), [(2, True), (1, False), (0, True), (0, False)])
def test_batches_on_the_device_are_those_of_the_pipeline(size, padding, flip):
    train = pipeline(size, padding=padding, flip=flip)
    train.set_epoch(3)
    data = resident._Resident(None, train, training=True)
    for position in range(len(train)):
        expected = train.batch(position)
        found = data.batch(data.data, data.plan(), position * 16, len(expected[1]))
        for array, other in zip(found, expected, strict=True):
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)


@on_jax
@pytest.mark.parametrize(
    ("make", "size"), [pytest.param(convolutional, 48, marks=pytest.mark.slow), (jointrd, 70), (adjoined, 48)]
)
def test_weights_and_history_are_those_of_fit(make, size, tiny):
    expected, found = make(tiny), make(tiny)
    validation = pipeline(30 if size % 16 else 32, training=False)  # a smaller last batch where `train` has one
    history = expected.fit(pipeline(size), validation_data=validation, epochs=3, verbose=0).history
    train = pipeline(size)
    other = resident.fit(found, train, validation, epochs=3, block=3, verbose=0).history
    assert train.epoch == 3
    assert set(history) == set(other) and any(name.startswith("val_") for name in history)
    for name in history:
        np.testing.assert_allclose(other[name], history[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(everything(found)) == len(everything(expected))
    for array, reference in zip(everything(found), everything(expected), strict=True):
        np.testing.assert_allclose(array, reference, rtol=1e-3, atol=1e-4)


@on_jax
@pytest.mark.parametrize("looped", [True, False])
@pytest.mark.parametrize(("size", "block"), [(70, 4), (70, 1), (70, None), (64, 3), (64, 2), (9, None)])
def test_all_images_are_trained_in_blocks_of_any_length(size, block, looped, monkeypatch):
    """The smaller last batch alone in its block, together with others, or the only one; and none."""
    monkeypatch.setattr(resident, "_loops_are_fast", lambda: looped)
    expected, found, train = dense(), dense(), pipeline(size)
    for epoch in (0, 1):
        for position in range(len(train)):
            expected.train_on_batch(*train.batch(position, epoch))
    resident.fit(found, pipeline(size), epochs=2, block=block, verbose=0)
    assert int(found.optimizer.iterations) == 2 * -(-size // 16)
    for array, reference in zip(everything(found), everything(expected), strict=True):
        np.testing.assert_allclose(array, reference, rtol=1e-4, atol=1e-5)


@on_jax
def test_network_without_input_shape_is_built():
    model = keras.Sequential([L.Flatten(), L.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = resident.fit(model, pipeline(), epochs=1, verbose=0)
    assert model.count_params() == 195 and int(model.optimizer.iterations) == 5
    assert set(history.history) == {"loss", "accuracy"}


@on_jax
def test_loops_are_for_accelerators(monkeypatch):
    monkeypatch.undo()
    assert not resident._loops_are_fast()  # these tests run on a CPU


@on_jax
def test_it_learns():
    history = resident.fit(dense(0.1), pipeline(400), pipeline(100, training=False), epochs=30, verbose=0).history
    assert history["val_accuracy"][-1] > 0.8


# === Callbacks ===


class Recorder(keras.callbacks.Callback):
    """What was called, and how many steps the optimizer had counted then."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.calls, self.stop_at = [], stop_at

    def note(self, *call):
        self.calls.append((*call, int(self.model.optimizer.iterations)))

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.note("epoch begins", epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("block begins", batch)

    def on_train_batch_end(self, batch, logs=None):
        assert "loss" in logs and len(logs) > 1
        self.note("block ends", batch)
        self.model.stop_training = (self.epoch, batch) == self.stop_at

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch ends", epoch)


class Saver(Recorder):
    """Keeps the values of all variables at each block's end."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.saved = everything(self.model), values(self.model.metrics_variables)


class Restorer(keras.callbacks.Callback):
    """Gives the variables of a model the values that a `Saver` kept."""

    def __init__(self, saved):
        super().__init__()
        self.everything, self.metrics = saved

    def on_train_begin(self, logs=None):
        for variable, value in zip(
            [*self.model.variables, *self.model.optimizer.variables], self.everything, strict=True
        ):
            variable.assign(value)

    def on_epoch_begin(self, epoch, logs=None):
        metrics, self.metrics = self.metrics, ()
        for variable, value in zip(self.model.metrics_variables, metrics, strict=bool(metrics)):
            variable.assign(value)


@on_jax
def test_callbacks_run_between_blocks_and_see_the_variables():
    recorder = Recorder()
    resident.fit(dense(), pipeline(), epochs=2, block=2, callbacks=[recorder], verbose=0)
    blocks = [(0, 0, 1, 2), (2, 2, 3, 4), (4, 4, 4, 5)]  # first position, steps before, last position, steps after
    expected = []
    for epoch in (0, 1):
        expected.append(("epoch begins", epoch, 5 * epoch))
        for first, before, last, after in blocks:
            expected += [("block begins", first, 5 * epoch + before), ("block ends", last, 5 * epoch + after)]
        expected.append(("epoch ends", epoch, 5 * epoch + 5))
    assert recorder.calls == expected


@on_jax
def test_values_that_callbacks_assign_are_used():
    model = dense()
    start = model.get_weights()
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    resident.fit(model, pipeline(), epochs=1, callbacks=scheduler, verbose=0)
    for array, other in zip(model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(array, other)


@on_jax
@pytest.mark.parametrize(
    ("make", "size", "position"), [(convolutional, 70, 2), (convolutional, 70, 5), (adjoined, 64, 2)]
)
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(make, size, position, tiny):
    steps = -(-size // 16)
    whole, validation = make(tiny), pipeline(32, training=False)
    history = resident.fit(whole, pipeline(size), validation, epochs=3, block=2, verbose=0).history

    train, saver = pipeline(size), Saver(stop_at=(1, position - 1))
    resident.fit(make(tiny), train, epochs=3, block=2, callbacks=[saver], verbose=0)
    assert saver.calls[-1] == ("epoch ends", 1, steps + position)
    assert train.epoch == (1 if position < steps else 2)

    resumed, train = make(tiny), pipeline(size)
    train.set_epoch(1)
    start = {"initial_epoch": 1, "initial_position": position, "callbacks": [Restorer(saver.saved)]}
    other = resident.fit(resumed, train, validation, epochs=3, block=2, verbose=0, **start).history
    assert other == {name: entries[1:] for name, entries in history.items()}
    for array, reference in zip(everything(resumed), everything(whole), strict=True):
        np.testing.assert_array_equal(array, reference)


@on_jax
def test_scheduled_model_counts_from_where_it_begins(tiny):
    model, train = adjoined(tiny), pipeline(64)
    train.set_epoch(3)
    resident.fit(model, train, epochs=4, initial_epoch=3, initial_position=2, block=2, verbose=0)
    assert int(model.step) == 16 and float(model.total_steps) == 16.0


@on_jax
def test_progress_bar_and_silence(capsys):
    resident.fit(dense(), pipeline(), epochs=1, verbose=0)
    assert capsys.readouterr().out == ""
    resident.fit(dense(), pipeline(), pipeline(30, training=False), epochs=2, verbose=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed and "5/5" in printed and "val_accuracy" in printed


# === Errors ===


@on_jax
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_position": 3}, "a multiple of 2, or 5, the end. Received: initial_position=3"),
        ({"initial_position": 6}, "Received: initial_position=6"),
        ({"initial_position": -2}, "Received: initial_position=-2"),
        ({"initial_epoch": -1}, "Received: initial_epoch=-1"),
        ({"block": 0}, "Received: block=0"),
        ({"block": 1.5}, "Received: block=1.5"),
        ({"validation_data": np.zeros(3)}, "`validation_data` to be a `tfjointrd.data.ArrayPipeline`"),
        ({"train": np.zeros(3)}, "`train` to be a `tfjointrd.data.ArrayPipeline`"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    arguments = {"train": pipeline(), "epochs": 1, "block": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        resident.fit(dense(), **arguments)


@on_jax
def test_model_must_be_compiled():
    with pytest.raises(ValueError, match="call `compile` first. Received: model 'plain'"):
        resident.fit(keras.Sequential([keras.Input((8, 8, 1)), L.Flatten()], name="plain"), pipeline(), epochs=1)


@on_jax
def test_labels_outside_the_classes(tiny):
    with pytest.raises(ValueError, match="labels between 0 and 2 .*Received: labels between 0 and 4"):
        resident.fit(adjoined(tiny), pipeline(classes=5), epochs=1)


@on_jax
def test_one_device_only():
    with (
        keras.distribution.DataParallel(devices=jax.devices()).scope(),
        pytest.raises(ValueError, match="one device only"),
    ):
        resident.fit(dense(), pipeline(), epochs=1)


@pytest.mark.parametrize(("steps", "length"), [(391, 98), (100, 100), (101, 51), (1, 1)])
def test_blocks_are_about_equal_and_not_too_long(steps, length):
    assert resident.block_length(steps) == length


@on_jax
def test_images_are_uploaded_once_with_a_part_that_is_held_out_of_them(monkeypatch):
    put, uploaded = jax.device_put, []
    monkeypatch.setattr(jax, "device_put", lambda value, *args: uploaded.append(value) or put(value, *args))
    train = pipeline()
    validation = train.hold_out(0.3, by_content=True).unaugmented()
    history = resident.fit(dense(), train, validation, epochs=1, verbose=0).history
    assert sum(any(part is train.x for part in value) for value in uploaded) == 1
    expected = dense()
    expected_history = expected.fit(train, validation_data=validation, epochs=1, verbose=0).history
    assert history["val_loss"][0] != 0 and set(history) == set(expected_history)
    resident.fit(dense(), train, pipeline(20, training=False), epochs=1, verbose=0)
    assert sum(value[0].shape == (20, 8, 8, 1) for value in uploaded if hasattr(value[0], "shape")) == 1


@on_jax
def test_a_backup_goes_on_where_it_was(tiny, tmp_path):
    class Epochs(keras.callbacks.Callback):
        def __init__(self, last=None):
            super().__init__()
            self.begun, self.last = [], last

        def on_epoch_begin(self, epoch, logs=None):
            self.begun.append(epoch)

        def on_epoch_end(self, epoch, logs=None):
            if epoch == self.last:
                raise KeyboardInterrupt

    for first in (Epochs(1), Epochs()):
        model, train = adjoined(tiny), pipeline()
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        try:
            resident.fit(model, train, epochs=3, callbacks=[backup, first], verbose=0)
        except KeyboardInterrupt:
            assert first.last == 1
    assert first.begun == [2] and int(model.step) == 3 * len(train) == float(model.total_steps)


@on_jax
def test_callbacks_and_batches_are_looked_at(tiny):
    stop = keras.callbacks.EarlyStopping("val_accuracy", mode="max")
    with pytest.raises(ValueError, match="val_small_accuracy"):
        resident.fit(adjoined(tiny), pipeline(), pipeline(training=False), epochs=1, callbacks=[stop], verbose=0)
    taught = jrd.Distillation(tiny(), tiny(), "rkd")
    taught.compile("sgd")
    with pytest.raises(ValueError, match="Received: .*1"):
        resident.fit(taught, pipeline(batch_size=1), epochs=1, verbose=0)
