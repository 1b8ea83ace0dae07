"""Photographs of any size, decoded batch by batch: nothing but one batch stands in memory."""

import abc
import functools
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfjointrd.data.information import DatasetInfo
from tfjointrd.data.pipeline import Pipeline
from tfjointrd.extras import require

Box = tuple[float, float, float, float]


def random_resized_box(width: int, height: int, generator: np.random.Generator) -> Box:
    """A random part of an image: 8 to 100 % of its area, sides in a ratio of 3:4 to 4:3.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        generator: Source of randomness.

    Returns:
        Tuple `(left, upper, right, lower)` in pixels. After ten parts that do not fit, the largest
        central one whose sides have an allowed ratio.

    Reference:
        Szegedy et al., Going Deeper with Convolutions (2015), section 6.
    """
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left = int(generator.integers(width - part_width + 1))
            upper = int(generator.integers(height - part_height + 1))
            return left, upper, left + part_width, upper + part_height
    return _central(width, height, min(width, height * 4 / 3), min(height, width * 4 / 3))


def central_box(width: int, height: int) -> Box:
    """The central square that is left of an image resized to 256 pixels and cropped to 224.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Tuple `(left, upper, right, lower)` in pixels.
    """
    side = min(width, height) * 224 / 256
    return _central(width, height, side, side)


def _central(width: int, height: int, part_width: float, part_height: float) -> Box:
    left, upper = (width - part_width) / 2, (height - part_height) / 2
    return left, upper, left + part_width, upper + part_height


def decode(encoded: str | bytes, size: int, channels: int, generator: np.random.Generator | None) -> np.ndarray:
    """Decode, crop and resize one image, upright as its EXIF orientation says.

    Args:
        encoded: Path of an image file, or the bytes of one.
        size: Side of the result in pixels.
        channels: 3 for colour, 1 for grey.
        generator: Source of randomness for a random-resized crop and a flip; `None` takes the centre.

    Returns:
        Pixels from 0 to 255, shape `(size, size, channels)`, uint8.

    Raises:
        ValueError: If it cannot be read; the message names the file.
    """
    Image = require("PIL.Image")
    mode = {1: "L", 3: "RGB"}[channels]
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            width, height = image.size
            box = random_resized_box(width, height, generator) if generator else central_box(width, height)
            # A JPEG file can be decoded at 1/2, 1/4 or 1/8 of its size, which is faster.
            enlarged = size / (box[2] - box[0]), size / (box[3] - box[1])
            image.draft(mode, (math.ceil(width * enlarged[0]), math.ceil(height * enlarged[1])))
            scale = image.width / width, image.height / height
            box = box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]
            turn = _upright(image)
            if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
            image = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR, box=box)
            image = image if turn is None else image.transpose(turn)
            pixels = np.asarray(image).reshape(size, size, channels)
    except Exception as error:  # Pillow's own are of many kinds
        source = "bytes" if isinstance(encoded, bytes) else encoded
        raise ValueError(f"Expected an image file that can be read. Received: {source} ({error})") from error
    return pixels[:, ::-1] if generator and generator.random() < 0.5 else pixels


def _upright(image):
    """How to turn an image that lies otherwise than it was taken, as a method of Pillow's `transpose`, or `None`."""
    ExifTags, Image = require("PIL.ExifTags"), require("PIL.Image")
    turns = Image.Transpose
    by_orientation = {
        **{2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE},
        **{6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90},
    }
    try:
        return by_orientation.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a damaged note beside an image that may be whole
        return None


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="decode")


class PhotographPipeline(Pipeline):
    """Batches of encoded images, decoded by several threads. See `Pipeline` for the rest.

    Training images are a random part of the photograph, resized to `info.input_shape`, and mirrored
    every second time. Validation images, and training images without augmentation, are the centre:
    the shorter side resized to 256/224 of the image size, then cropped.

    Args:
        info: The `DatasetInfo` of the set; images come out square, of its `input_shape`.
        size: Number of images in an epoch.
        batch_size: Number of images in a batch.
        training: Whether to shuffle anew for each epoch.
        augment: Whether to crop and flip at random.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self, info: DatasetInfo, size: int, batch_size: int, *, training: bool, augment: bool = False, seed: int = 0
    ):
        super().__init__(info, size, batch_size, training=training, seed=seed)
        self.augment = augment

    def unaugmented(self, shuffled: bool = False) -> "PhotographPipeline":
        """The same images, cropped to their centre. See `Pipeline.unaugmented`."""
        plain = super().unaugmented(shuffled)
        plain.augment = False
        return plain

    @abc.abstractmethod
    def encoded(self, position: int, epoch: int) -> tuple[list[str] | list[bytes], np.ndarray]:
        """Files (paths or contents) and labels of one batch of an epoch."""

    def batch(self, position: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch, by default the next one. See `Pipeline.batch`."""
        epoch = self.epoch if epoch is None else epoch
        files, labels = self.encoded(position, epoch)
        images = np.empty((len(files), *self.info.input_shape), "float32")
        _, size, channels = self.info.input_shape
        generators = self.generator(position, epoch).spawn(len(files)) if self.augment else [None] * len(files)

        def fill(row: int) -> None:
            images[row] = decode(files[row], size, channels, generators[row])

        list(_threads().map(fill, range(len(files))))
        return images, labels
