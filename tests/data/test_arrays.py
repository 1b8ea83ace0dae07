"""Random crops of images in memory."""

import hashlib
import time

import numpy as np
import pytest

from tfjointrd.data import ArrayPipeline, DatasetInfo
from tfjointrd.data.arrays import averaged, channel_statistics, crop, draw_crops, fingerprint


def images(count=200, height=6, width=5, channels=3):
    return np.random.default_rng(0).integers(1, 256, (count, height, width, channels), dtype="uint8")


def candidates(image, padding, flip):
    """Every image that cropping and flipping can make of one."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + height, column : column + width]
            yield crop
            if flip:
                yield crop[:, ::-1]


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (1, False), (0, True)])
def test_crops_are_shifts_and_mirror_images_and_all_occur(padding, flip):
    x = np.repeat(images(count=1), 600, axis=0)
    cropped = crop(x, padding, draw_crops(len(x), padding, flip, np.random.default_rng(1)))
    assert cropped.shape == x.shape and cropped.dtype == x.dtype
    expected = {candidate.tobytes() for candidate in candidates(x[0], padding, flip)}
    assert {np.ascontiguousarray(image).tobytes() for image in cropped} == expected


def make_pipeline(count, **arguments):
    info = DatasetInfo("set", count, (6, 5, 3), (0.0,) * 3, (1.0,) * 3)
    arguments = {"training": True, **arguments}
    return ArrayPipeline(images(count), np.arange(count), info, 16, **arguments)


def test_labels_stay_with_their_images():
    pipeline = make_pipeline(50, padding=2, flip=True)
    x = pipeline.x
    for batch, labels in pipeline:
        for image, label in zip(batch, labels, strict=True):
            assert any(np.array_equal(image, candidate) for candidate in candidates(x[label], 2, True))


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (1, False), (0, True), (0, False)])
@pytest.mark.parametrize("training", [True, False])
def test_plan_describes_every_batch_of_the_epoch(padding, flip, training):
    pipeline = make_pipeline(50, padding=padding, flip=flip, training=training)
    plan = pipeline.plan(epoch=3)
    assert [part.shape for part in (plan.order, *plan.crops)] == [(50,)] * 4
    x = crop(pipeline.x[plan.order], padding, plan.crops).astype("float32")
    batches = [pipeline.batch(position, 3) for position in range(len(pipeline))]
    np.testing.assert_array_equal(x, np.concatenate([images for images, _ in batches]))
    np.testing.assert_array_equal(pipeline.y[plan.order], np.concatenate([labels for _, labels in batches]))


def test_plan_is_that_of_the_next_epoch():
    pipeline = make_pipeline(50, padding=2, flip=True)
    pipeline.set_epoch(4)
    for part, other in zip(pipeline.plan().crops, pipeline.plan(epoch=4).crops, strict=True):
        np.testing.assert_array_equal(part, other)
    assert not np.array_equal(pipeline.plan().order, pipeline.plan(epoch=5).order)


def test_batches_stay_what_they_were():
    """The bytes of a batch as of the first version: trainings that were begun can be taken up again."""
    pipeline = make_pipeline(50, padding=2, flip=True, seed=7)
    found = [hashlib.sha256(pipeline.batch(position, 3)[0].tobytes()).hexdigest()[:16] for position in (0, 3)]
    assert found == ["16ea3c24615066ab", "f10a4275f291677d"]


def test_arrays_stay_as_they_are():
    x = images(count=10)
    info = DatasetInfo("set", 2, (6, 5, 3), (0.0,) * 3, (1.0,) * 3)
    pipeline = ArrayPipeline(x, np.zeros(10, int), info, 4, training=True, padding=1, flip=True)
    list(pipeline)
    np.testing.assert_array_equal(pipeline.x, images(count=10))
    assert pipeline.y.shape == (10,)


def test_statistics_of_channels():
    x = images()
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, x.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(std, x.reshape(-1, 3).std(0))


def test_augmentation_is_no_bottleneck():
    """At least 10,000 images of 32x32 pixels a second on one core (150,000 were measured)."""
    x = np.zeros((5000, 32, 32, 3), "uint8")
    info = DatasetInfo("set", 2, (32, 32, 3), (0.0,) * 3, (1.0,) * 3)
    pipeline = ArrayPipeline(x, np.zeros(5000, int), info, 128, training=True, padding=4, flip=True)
    start = time.process_time()
    seen = sum(len(labels) for _, labels in pipeline)
    assert seen / (time.process_time() - start) > 10_000


# === Sizes and fingerprints ===


def test_averaged_over_squares():
    x = images(count=7, height=12, width=12)
    smaller = averaged(x, 4)
    assert smaller.shape == (7, 4, 4, 3) and smaller.dtype == x.dtype
    for row in range(4):
        for column in range(4):
            square = x[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].reshape(7, 9, 3)
            assert np.abs(smaller[:, row, column] - square.mean(axis=1)).max() <= 0.5
    floats = averaged(x.astype("float32"), 4)
    np.testing.assert_allclose(floats[0, 0, 0], x[0, :3, :3].mean(axis=(0, 1)), rtol=1e-6)
    assert averaged(x, 12) is x


def test_fingerprint_depends_on_images_labels_and_parts_but_not_on_order():
    x, y = images(count=20), np.arange(20) % 5
    parts = [x[:12], y[:12], x[12:], y[12:]]
    original = fingerprint(parts)
    order = np.random.default_rng(3).permutation(12)
    assert fingerprint([x[:12][order], y[:12][order].astype("uint8"), x[12:], y[12:]]) == original
    one_pixel = x[:12].copy()
    one_pixel[3, 2, 1, 0] ^= 1
    swapped = y[:12].copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        [one_pixel, *parts[1:]],
        [x[:12], swapped, *parts[2:]],
        [x[:11], y[:11], x[11:], y[11:]],
        [x[:12].astype("float32"), *parts[1:]],
    ]
    assert len({original, *map(fingerprint, others)}) == 5
