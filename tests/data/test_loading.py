"""Arguments of `load`, and loading where there is no TensorFlow."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from jax_process import JAX
from PIL import Image

from tfjointrd.data import DatasetInfo, info, load, names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` to be a positive integer. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size` to be a positive integer. Received: batch_size=2.5"),
        ({"batch_size": True}, "`batch_size` to be a positive integer. Received: batch_size=True"),
        ({"seed": "7"}, "`seed` to be a non-negative integer. Received: seed='7'"),
        ({"seed": -1}, "`seed` to be a non-negative integer. Received: seed=-1"),
        ({"image_size": 0}, "`image_size` to be a positive integer. Received: image_size=0"),
        ({"image_size": (8, 8)}, r"`image_size` to be a positive integer. Received: image_size=\(8, 8\)"),
        ({"image_size": 3}, "to divide the size of the images of digits, 8x8. Received: image_size=3"),
        ({"augment": "flip"}, "`augment` to be True, False or one of digits, .* Received: augment='flip'"),
        ({"validation_split": 1}, "`validation_split` to lie between 0 and 1. Received: validation_split=1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **arguments)


def test_size_of_the_images_themselves_is_allowed():
    assert load("digits", image_size=8)[0].info == info("digits") == info("digits", image_size=8)
    assert info("imagenette", image_size=160).input_shape == (160, 160, 3)
    with pytest.raises(ValueError, match="to divide the size of the images of cifar10, 32x32. Received: image_size=64"):
        info("cifar10", image_size=64)
    with pytest.raises(ValueError, match="`image_size` to be a positive integer. Received: image_size=0"):
        info("imagenette", image_size=0)


def test_known_sets_are_described_without_their_data():
    assert set(names()) >= {"digits", "cifar10", "cifar100", "fashion_mnist", "imagenette", "imagenet2012"}
    for name in names():
        found = info(name, data_dir="/no/such/folder")
        assert isinstance(found, DatasetInfo) and found.name == name
        assert len(found.mean) == len(found.std) == found.input_shape[-1]
        assert found.class_names is None or len(found.class_names) == found.num_classes


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # any import of it fails
import tfjointrd.data as data

for name, size in (("digits", 8), ("set.npz", 6), ("./folder", 10)):
    train, validation = data.load(name, image_size=size)
    images, labels = train[0]
    assert images.shape[1:3] == (size, size), images.shape
try:
    data.load("cifar10")
except ImportError as error:
    print(error)
"""


def test_digits_npz_and_folders_need_no_tensorflow(tmp_path):
    x = np.full((8, 6, 6, 3), 7, "uint8")
    y = np.arange(8) % 2
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for name in ("a", "b"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (12, 12)).save(tmp_path / "folder" / name / f"{index}.png")
    environment = os.environ | JAX | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_TENSORFLOW)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Received: name='cifar10'" in done.stdout and "pip install tensorflow" in done.stdout
