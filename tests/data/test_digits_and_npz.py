"""The digits of scikit-learn and .npz files."""

import numpy as np
import pytest

from tfjointrd.data import info, load
from tfjointrd.data.arrays import channel_statistics


def arrays(channels=(3,), dtype="uint8"):
    generator = np.random.default_rng(0)

    def images(count):
        return generator.integers(0, 256, (count, 6, 5, *channels)).astype(dtype)

    return {
        "x_train": images(20),
        "y_train": np.arange(20) % 4,
        "x_test": images(8),
        "y_test": np.arange(8) % 4,
    }


def write(path, **changes):
    contents = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez(path / "set.npz", **contents)
    return path / "set.npz"


def test_digits():
    train, validation = load()
    assert train.x.shape == (1437, 8, 8, 1) and validation.x.shape == (360, 8, 8, 1)
    assert (train.x.min(), train.x.max()) == (0, 255)
    counts = np.bincount(validation.y)
    assert counts.min() >= 34 and counts.max() <= 38
    mean, std = channel_statistics(train.x)
    np.testing.assert_allclose(train.info.mean + train.info.std, mean + std, atol=0.01)


def test_split_of_the_digits_does_not_depend_on_the_seed():
    np.testing.assert_array_equal(load("digits", seed=1)[1].x, load("digits", seed=2)[1].x)


def test_digits_are_shifted_by_one_pixel_at_most_and_never_mirrored():
    train, _ = load("digits", batch_size=1437)
    images, labels = train.batch(0, epoch=0)
    order = train.order(0)
    shifted = 0
    for image, index, label in zip(images, order, labels, strict=True):
        padded = np.pad(train.x[index], ((1, 1), (1, 1), (0, 0)))
        shifts = [padded[row : row + 8, column : column + 8] for row in range(3) for column in range(3)]
        assert any(np.array_equal(image, shift) for shift in shifts)
        assert label == train.y[index]
        shifted += not np.array_equal(image, train.x[index])
    assert shifted > 1000
    plain, _ = load("digits", batch_size=1437, augment=False)
    np.testing.assert_array_equal(plain.batch(0, epoch=0)[0], train.x[order])


def test_npz(tmp_path):
    path = write(tmp_path)
    train, validation = load(path, batch_size=8)
    expected = arrays()
    np.testing.assert_array_equal(train.x, expected["x_train"])
    np.testing.assert_array_equal(validation.y, expected["y_test"])
    assert train.info.num_classes == 4 and train.info.input_shape == (6, 5, 3)
    np.testing.assert_allclose(train.info.mean, expected["x_train"].mean((0, 1, 2)))
    assert info(str(path)) == train.info
    images, labels = train.batch(0, epoch=1)
    np.testing.assert_array_equal(images, expected["x_train"][train.order(1)[:8]])


def test_npz_can_borrow_an_augmentation(tmp_path):
    train, _ = load(write(tmp_path), augment="cifar10")
    assert (train.padding, train.flip) == (4, True)


def test_grey_npz_gets_a_channel_axis(tmp_path):
    np.savez(tmp_path / "grey.npz", **arrays(channels=(), dtype="float32"))
    train, _ = load(tmp_path / "grey.npz")
    assert train.info.input_shape == (6, 5, 1)
    assert train[0][0].shape == (20, 6, 5, 1)


def test_missing_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected an .npz file. Received: .*none.npz, which does not exist"):
        load(tmp_path / "none.npz")


def test_damaged_npz(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="Expected an .npz file. Received: .*set.npz, which cannot be read"):
        load(str(path))


def test_what_is_not_numbers_in_a_whole_file(tmp_path):
    path = write(tmp_path, y_train=np.array(["cat", "dog"] * 10, object))
    with pytest.raises(ValueError, match=r"y_train in .*set.npz to hold numbers. Number names of classes: `numpy.uniq"):
        load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"Received: .*one.npz, which holds one array without a name"):
        load(tmp_path / "one.npz")
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)  # within the pixels
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected a whole file. Received: .*set.npz, whose x_train is damaged"):
        load(path)


def test_channels_that_are_alike_everywhere(tmp_path):
    x = arrays()["x_train"].astype("float32")
    x[..., 1], x[..., 2] = 0, 0.1
    std = info(str(write(tmp_path, x_train=x))).std
    assert std[0] > 10 and std[1:] == (1.0, 1.0)


def test_npz_without_its_arrays(tmp_path):
    path = write(tmp_path, y_test=None, labels=np.arange(3))
    with pytest.raises(ValueError, match="Missing: y_test. Received: x_train, y_train, x_test, labels"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((20, 30), "uint8")}, r"x_train to have the shape .* Received: \(20, 30\)"),
        ({"x_train": np.zeros((20, 6, 5, 4), "uint8")}, r"x_train to have the shape .* Received: \(20, 6, 5, 4\)"),
        ({"x_test": np.zeros((0, 6, 5, 3), "uint8")}, r"x_test to have the shape"),
        ({"x_test": np.zeros((8, 7, 5, 3), "uint8")}, r"shape of x_train, \(6, 5, 3\). Received: \(7, 5, 3\)"),
        ({"x_train": np.full((20, 6, 5, 3), "a")}, "x_train to hold numbers. Received: dtype <U1"),
        ({"x_train": np.full((20, 6, 5, 3), 256)}, "raw pixels from 0 to 255. Received: 256 to 256"),
        ({"x_train": np.full((20, 6, 5, 3), -1)}, "raw pixels from 0 to 255. Received: -1 to -1"),
        ({"x_train": np.full((20, 6, 5, 3), 0.5)}, "Multiply by 255 .* Received: 0.5 to 0.5"),
        ({"x_train": np.full((20, 6, 5, 3), np.nan)}, "raw pixels from 0 to 255. Received: nan"),
        ({"y_train": np.eye(20)}, r"one integer label for each image, shape \(20,\). Received: shape \(20, 20\)"),
        ({"y_train": np.zeros(19, int)}, r"y_train .* Received: shape \(19,\)"),
        ({"y_test": np.zeros(8)}, "y_test .* dtype float64"),
        ({"y_train": np.arange(20) - 1}, "labels in y_train from 0 on. Received: -1"),
        ({"y_test": np.arange(8)}, "labels in y_test from 0 to 3, the largest in y_train. Received: 7"),
    ],
)
def test_npz_with_wrong_arrays(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, **changes))


# === A set by its name, from a file ===


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory):
    train, validation = load("digits", augment=False)
    path = tmp_path_factory.mktemp("files") / "digits.npz"
    order = np.random.default_rng(0).permutation(1437)
    contents = {"x_train": train.x[order], "y_train": train.y[order], "x_test": validation.x, "y_test": validation.y}
    np.savez(path, **contents)
    return path


def test_a_set_is_read_from_a_file(digits_file):
    train, validation = load("digits", data_file=digits_file, seed=2)
    own, _ = load("digits", seed=2)
    assert train.info == own.info and train.augmented and validation.size == 360
    assert train.info.fingerprint and train.info.fingerprint == own.info.fingerprint
    assert not np.array_equal(train.x, own.x)  # another order of the same images


def test_files_of_other_sets_are_refused(digits_file, tmp_path):
    with pytest.raises(ValueError, match=r"to hold cifar10, with input_shape=\(32, 32, 3\). Received: .*\(8, 8, 1\)"):
        load("cifar10", data_file=digits_file)
    with np.load(digits_file) as file:
        content = dict(file)
    fewer = {**content, "x_train": content["x_train"][:-1], "y_train": content["y_train"][:-1]}
    classes = {**content, "y_train": content["y_train"] // 2, "y_test": content["y_test"] // 2}
    for change, message in ((fewer, "train_size=1437. Received: .* 1436"), (classes, "num_classes=10. Received: .* 5")):
        np.savez(tmp_path / "other.npz", **change)
        with pytest.raises(ValueError, match=message):
            load("digits", data_file=tmp_path / "other.npz")
    with pytest.raises(ValueError, match="`data_file` for one of the sets digits, cifar10, .* for 'imagenette'"):
        load("imagenette", data_file=digits_file)
    with pytest.raises(FileNotFoundError, match="`data_file` to be an .npz file. Received: data_file=.nowhere.npz"):
        load("digits", data_file="nowhere.npz")


def test_smaller_images(digits_file):
    train, validation = load("digits", image_size=4, batch_size=16)
    full, _ = load("digits")
    assert train.info.input_shape == info("digits", image_size=4).input_shape == (4, 4, 1)
    assert train.x.shape == (1437, 4, 4, 1) and train.batch(0)[0].shape == (16, 4, 4, 1)
    np.testing.assert_allclose(train.x[:, 0, 0], full.x[:, :2, :2].mean(axis=(1, 2)), atol=1e-4)
    assert (train.padding, train.info.fingerprint) == (1, full.info.fingerprint)
    assert (train.info.mean, train.info.std) == (full.info.mean, full.info.std)


def test_a_held_out_part_for_validation_is_the_same_for_every_seed(digits_file):
    parts = []
    for seed in (0, 1):
        train, _ = load("digits", seed=seed)
        held = train.hold_out(0.1, by_content=True).unaugmented()
        assert (held.size, train.size, held.augmented, held.training) == (144, 1293, False, False)
        assert not np.intersect1d(held.order(0), train.order(5)).size
        np.testing.assert_array_equal(held.batch(0)[0], train.x[held.order(0)[:128]])
        parts.append(held.order(0))
    np.testing.assert_array_equal(*parts)
    # Neither does the order in which the set is read matter.
    train, _ = load("digits", data_file=digits_file)
    other = train.hold_out(0.1, by_content=True)
    own, _ = load("digits")
    images = {image.tobytes() for image in own.x[parts[0]]}
    assert {image.tobytes() for image in train.x[other.order(0)]} == images
