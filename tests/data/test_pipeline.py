"""Order and augmentation depend on seed and epoch alone, whatever Keras does around them."""

import json
import threading

import forked
import keras
import numpy as np
import pytest

from tfjointrd.data import ArrayPipeline, DatasetInfo, arrays, load
from tfjointrd.data.process_share import Share


def numbered(size, batch_size, **options):
    """Images whose pixels are their index, so that a batch says which images it holds."""
    info = DatasetInfo("numbered", 2, (1, 1, 1), (0.0,), (1.0,))
    x = np.arange(size, dtype="uint8").reshape(size, 1, 1, 1)
    return ArrayPipeline(x, np.arange(size) % 2, info, batch_size, **{"training": True, **options})


def record(pipeline):
    """Note what the pipeline serves, as (epoch, position)."""
    served, batch = [], pipeline.batch

    def noted(position, epoch=None):
        served.append((pipeline.epoch if epoch is None else epoch, position))
        return batch(position, epoch)

    pipeline.batch = noted
    return served


def make_model():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4), loss, metrics=["accuracy"])
    return model


def images_of(pipeline, epoch):
    return [int(i) for position in range(len(pipeline)) for i in pipeline.batch(position, epoch)[0].ravel()]


def test_every_epoch_holds_every_image_once_in_its_own_order():
    pipeline = numbered(50, 8, seed=3)
    epochs = [images_of(pipeline, epoch) for epoch in range(4)]
    assert all(sorted(images) == list(range(50)) for images in epochs)
    assert len({tuple(images) for images in epochs}) == 4


def test_batches_are_a_pure_function_of_seed_epoch_and_position():
    first, second = load("digits", batch_size=64, seed=5)[0], load("digits", batch_size=64, seed=5)[0]
    other = load("digits", batch_size=64, seed=6)[0]
    expected = first.batch(3, epoch=7)
    first.batch(0, epoch=2)
    np.random.seed(1)
    for pipeline in (first, second):
        images, labels = pipeline.batch(3, epoch=7)
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
    assert not np.array_equal(other.batch(3, epoch=7)[1], expected[1])


def test_a_part_is_held_out():
    pipeline, again, other = numbered(50, 8, seed=3), numbered(50, 8, seed=3), numbered(50, 8, seed=4)
    held, held_again, held_other = (one.hold_out(0.3) for one in (pipeline, again, other))
    assert (pipeline.size, held.size) == (35, 15) and (len(pipeline), len(held)) == (5, 2)
    epochs = [(images_of(pipeline, epoch), images_of(held, epoch)) for epoch in range(3)]
    for kept, out in epochs:
        assert sorted(kept + out) == list(range(50)) and not set(kept) & set(out)
    assert {frozenset(out) for _, out in epochs} == {frozenset(epochs[0][1])}  # the same images in every epoch
    assert len({tuple(out) for _, out in epochs}) == 3  # in another order
    assert epochs[2] == (images_of(again, 2), images_of(held_again, 2))
    assert set(epochs[0][1]) != set(images_of(held_other, 0))
    pipeline.limit(16)
    assert pipeline.size == 16 and set(images_of(pipeline, 0)) < set(epochs[0][0])
    validation = numbered(20, 8, training=False)
    held = validation.hold_out(0.5)
    assert images_of(validation, 0) == sorted(set(range(20)) - set(images_of(held, 0)))


@pytest.mark.parametrize("part", [0, 1, -0.1, 0.001, float("nan")])
def test_a_part_that_cannot_be_held_out(part):
    pipeline = numbered(50, 8)
    with pytest.raises(ValueError, match="Expected `part` above 0 and below 1, and an image in .*Received: part="):
        pipeline.hold_out(part)
    assert sorted(images_of(pipeline, 0)) == list(range(50))
    with pytest.raises(ValueError, match="Expected `hold_out` to be called on the pipeline before it is shared"):
        Share(pipeline, 0, 2, 2).hold_out(0.5)


def test_validation_is_never_shuffled():
    pipeline = numbered(20, 8, training=False)
    pipeline.on_epoch_begin()
    assert images_of(pipeline, 0) == images_of(pipeline, 3) == list(range(20))
    np.testing.assert_array_equal(pipeline[1][0].ravel(), np.arange(8, 16))


def test_last_batch_is_what_is_left_over():
    pipeline = numbered(20, 8)
    assert len(pipeline) == 3
    assert [len(labels) for _, labels in pipeline] == [8, 8, 4]


def test_batches_are_float32_and_int32():
    images, labels = numbered(4, 4)[0]
    assert (images.dtype, labels.dtype) == ("float32", "int32")


def test_iterating_serves_the_current_epoch():
    pipeline = numbered(20, 8)
    pipeline.set_epoch(2)
    assert [int(i) for images, _ in pipeline for i in images.ravel()] == images_of(pipeline, 2)


@pytest.mark.parametrize("position", [-1, 3])
def test_position_outside_the_epoch(position):
    with pytest.raises(IndexError, match="from 0 to 2. Received"):
        numbered(20, 8)[position]


@pytest.mark.parametrize("epoch", [-1, 1.5, "2"])
def test_epoch_must_be_a_count(epoch):
    with pytest.raises(ValueError, match="`epoch` to be a non-negative integer. Received: epoch="):
        numbered(20, 8).set_epoch(epoch)


def test_batches_read_ahead_between_epochs_do_not_hide_an_epoch():
    """With `steps_per_epoch`, Keras' thread goes on reading while one epoch has ended and the next has not begun."""
    pipeline = numbered(50, 8)
    for epoch in range(3):
        pipeline.on_epoch_begin()
        for position in range(5):
            pipeline[position]
        pipeline.on_epoch_end()
        reader = threading.Thread(target=pipeline.__getitem__, args=(5,))
        reader.start()
        reader.join()
        assert pipeline.epoch == epoch + 1


@pytest.mark.parametrize("batch_size", [256, 700, 1437])
def test_fit_serves_epoch_after_epoch_in_the_pipelines_order(batch_size):
    train, validation = load("digits", batch_size=batch_size)
    model = make_model()
    served = record(train)
    model.fit(train, validation_data=validation, epochs=2, verbose=0)
    model.fit(train, epochs=1, verbose=0)
    assert train.epoch == 3
    count = len(train)
    looks = min(count, 2)  # Keras looks at up to two batches before it starts
    expected = [(0, position) for position in range(looks)]
    expected += [(epoch, position) for epoch in (0, 1) for position in range(count)]
    expected += [(2, position) for position in range(looks)] + [(2, position) for position in range(count)]
    assert served == expected


@pytest.mark.parametrize("batch_size", [64, 720])
def test_fit_after_an_interrupted_fit(batch_size):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    train, _ = load("digits", batch_size=batch_size)
    model = make_model()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            model.fit(train, verbose=0, callbacks=[Stop()])
    before = train.epoch
    model.fit(train, epochs=2, verbose=0)
    assert train.epoch >= before + 2


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    whole = make_model()
    start = whole.get_weights()
    train, _ = load("digits", seed=4)
    whole.fit(train, epochs=3, verbose=0)

    first = make_model()
    first.set_weights(start)
    train, _ = load("digits", seed=4)
    first.fit(train, epochs=1, verbose=0)
    first.save(tmp_path / "checkpoint.keras")

    resumed = keras.saving.load_model(tmp_path / "checkpoint.keras")
    train, _ = load("digits", seed=4)
    train.set_epoch(1)
    resumed.fit(train, initial_epoch=1, epochs=3, verbose=0)
    for weight, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


def test_steps_per_epoch_does_not_repeat_the_same_batches():
    train, _ = load("digits", batch_size=64)
    make_model().fit(train, epochs=3, steps_per_epoch=5, verbose=0)
    assert train.epoch == 3


ON_JAX = """
import json, keras
from tfjointrd.data import load

train, validation = load("digits", batch_size=256)
served, batch = [], train.batch
train.batch = lambda position, epoch=None: (served.append((epoch, position)), batch(position, epoch))[1]
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(train, validation_data=validation, epochs=2, verbose=0)
model.fit(train, epochs=1, verbose=0)
print(json.dumps([train.epoch, len(train), served]))
"""


def test_fit_on_jax_serves_epoch_after_epoch():
    epoch, count, served = json.loads(forked.run(ON_JAX).splitlines()[-1])
    assert epoch == 3
    expected = [[epoch, position] for epoch in range(3) for position in range(count)]
    assert served[-len(expected) :] == expected
    assert len(served) - len(expected) <= 2


def test_limited():
    """Training draws its images from all, validation takes them from all over."""
    pipeline = numbered(50, 8, seed=3)
    pipeline.limit(20)
    epochs = [images_of(pipeline, epoch) for epoch in range(20)]
    assert len(pipeline) == 3 and all(len(set(images)) == 20 for images in epochs)
    assert set().union(*epochs) == set(range(50))
    validation = numbered(50, 8, training=False)
    validation.limit(3)
    assert images_of(validation, 0) == [0, 24, 49]
    validation.limit(100)
    assert images_of(validation, 0) == list(range(50))
    with pytest.raises(ValueError, match="Expected `images` to be a positive integer. Received: images=0"):
        pipeline.limit(0)


def test_the_rest_of_an_epoch():
    pipeline = numbered(50, 8, seed=3)
    pipeline.set_epoch(4)
    rest = pipeline.rest(5)
    assert len(rest) == 2
    for position, (images, labels) in enumerate(rest[i] for i in range(2)):
        np.testing.assert_array_equal(images, pipeline.batch(5 + position, 4)[0])
        np.testing.assert_array_equal(labels, pipeline.batch(5 + position, 4)[1])
    with pytest.raises(ValueError, match="Expected `position` from 0 to 6. Received: position=7"):
        pipeline.rest(7)


def test_the_error_that_ended_a_read_is_kept():
    pipeline = numbered(50, 8)
    pipeline.y = None
    with pytest.raises(TypeError):
        pipeline[0]
    assert isinstance(pipeline.error, TypeError)


def test_images_as_they_are_shuffled_or_not():
    train, validation = load("digits", batch_size=32, seed=3)
    as_ever, _ = load("digits", batch_size=32, seed=3, augment=False)
    train.set_epoch(5)
    shuffled, ordered = train.unaugmented(shuffled=True), train.unaugmented()
    for ours, theirs in zip(shuffled.batch(1, 2), as_ever.batch(1, 2), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (shuffled.epoch, shuffled.training, ordered.training) == (0, True, False)
    np.testing.assert_array_equal(ordered.batch(0)[0], train.x[:32])
    assert not validation.unaugmented(shuffled=True).training
    copied = train.copy()
    copied.hold_out(0.5)
    assert copied.x is train.x and (copied.size, train.size) == (719, 1437)


def test_images_are_digested_once(monkeypatch):
    """For the fingerprint and for a part held out by content, and only anew where they were averaged."""
    digested = []
    digests_of = arrays.digests_of
    monkeypatch.setattr(arrays, "digests_of", lambda x, y: digested.append(x.shape) or digests_of(x, y))
    train, _ = load("digits")
    held = train.hold_out(0.1, by_content=True)
    assert digested == [(1437, 8, 8, 1), (360, 8, 8, 1)]
    assert held.content(7) == digests_of(train.x[7:8], train.y[7:8])[0]
    smaller, _ = load("digits", image_size=4)
    smaller.hold_out(0.1, by_content=True)
    assert digested[4:] == [(1437, 4, 4, 1)]
