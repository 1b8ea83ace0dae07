"""Photographs are read image by image: what stands in memory does not grow with the set."""

import os
import tracemalloc

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfjointrd.data import load, tfds_sets

SIDE, BATCH = 48, 8


def pixels(number):
    """Noise, which no format makes smaller."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype="uint8")


def write_folder(folder, count):
    (folder / "train" / "a").mkdir(parents=True)
    (folder / "val" / "a").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(pixels(number)).save(folder / "train" / "a" / f"{number}.png")
    Image.fromarray(pixels(0)).save(folder / "val" / "a" / "0.png")
    return load(folder, batch_size=BATCH, image_size=SIDE)[0]


class Noise(tfds.core.GeneratorBasedBuilder):
    """Images of noise, as many as `images` says."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = os.path.dirname(__file__)
    images = 8

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(self.images), "validation": self._generate_examples(8)}

    def _generate_examples(self, images):
        for number in range(images):
            yield number, {"image": pixels(number), "label": number % 2}


def write_tfds(folder, count, monkeypatch):
    monkeypatch.setattr(Noise, "images", count)
    monkeypatch.setattr(tfds_sets, "SHUFFLE_BUFFER", 32)
    builder = Noise(data_dir=folder)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    found = tfds_sets.describe("noise", builder, ("train", "validation"), SIDE)
    return tfds_sets.StreamPipeline(builder, "train", found, BATCH, training=True, augment=True)


def peak(pipeline):
    """Most bytes that Python and NumPy hold at a time during an epoch."""
    pipeline.batch(0, epoch=9)  # imports and threads
    tracemalloc.start()
    try:
        for position in range(len(pipeline)):
            pipeline.batch(position, epoch=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_five_times_the_images_take_no_more_memory(kind, tmp_path, monkeypatch):
    def write(name, count):
        folder = tmp_path / name
        return write_folder(folder, count) if kind == "folder" else write_tfds(folder, count, monkeypatch)

    few, many = (peak(write(name, count)) for name, count in (("few", 80), ("many", 400)))
    whole = 320 * SIDE * SIDE * 3  # bytes of what is added, as encoded noise
    assert many - few < 0.2 * whole
