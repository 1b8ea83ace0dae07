"""Cropping and decoding of photographs."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from tfjointrd.data.photographs import central_box, decode, random_resized_box


def gradient(width, height):
    """Red tells the column and green the row of a pixel, each from 0 to 255."""
    pixels = np.zeros((height, width, 3), "uint8")
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return pixels


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (30, 200)])
def test_random_boxes_keep_area_ratio_and_bounds(width, height):
    generator = np.random.default_rng(0)
    boxes = np.array([random_resized_box(width, height, generator) for _ in range(500)])
    left, upper, right, lower = boxes.T
    assert left.min() >= 0 and upper.min() >= 0 and right.max() <= width and lower.max() <= height
    ratio = (right - left) / (lower - upper)
    assert ratio.min() > 0.70 and ratio.max() < 1.42  # 3:4 to 4:3 and what rounding to pixels does
    area = (right - left) * (lower - upper) / (width * height)
    assert 0.07 < area.min() < 0.12
    assert len(np.unique(boxes, axis=0)) > 300


def test_random_box_of_a_strip_falls_back_to_its_centre():
    assert random_resized_box(1000, 3, np.random.default_rng(0)) == (498.0, 0.0, 502.0, 3.0)


def test_central_box_is_seven_eighths_of_the_shorter_side():
    assert central_box(512, 256) == (144.0, 16.0, 368.0, 240.0)


def test_centre_equals_resizing_to_256_and_cropping_to_224():
    pixels = gradient(512, 512)
    resized = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized, "float32")[16:240, 16:240]
    found = decode(encode(pixels), 224, 3, None)
    assert found.shape == (224, 224, 3) and found.dtype == "uint8"
    assert np.abs(found - expected).max() <= 2


def test_large_jpeg_is_cropped_where_a_png_is():
    """A JPEG is decoded at a fraction of its size; the crop has to be scaled along."""
    pixels = gradient(1600, 1200)
    for seed in range(20):
        png = decode(encode(pixels), 64, 3, np.random.default_rng(seed)).astype(int)
        jpeg = decode(encode(pixels, "JPEG", quality=95), 64, 3, np.random.default_rng(seed)).astype(int)
        assert np.abs(png - jpeg).max() <= 6


def test_random_decoding_flips_half_of_the_images():
    file = encode(gradient(100, 100))
    decoded = [decode(file, 16, 3, np.random.default_rng(seed)) for seed in range(200)]
    flipped = [image[0, 0, 0] > image[0, -1, 0] for image in decoded]
    assert 70 < sum(flipped) < 130
    assert all(image[0, 0, 1] < image[-1, 0, 1] for image in decoded)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_every_mode_becomes_colour_or_grey(mode, tmp_path):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(gradient(40, 30)).convert(mode).save(path)
    assert decode(str(path), 16, 3, None).shape == (16, 16, 3)
    assert decode(str(path), 16, 1, None).shape == (16, 16, 1)


def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"this is no image")
    with pytest.raises(ValueError, match=r"image file that can be read. Received: .*broken.jpg"):
        decode(str(path), 16, 3, None)
    whole = encode(gradient(300, 300), "JPEG")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="broken.jpg"):
        decode(str(path), 16, 3, None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_come_upright(tmp_path, orientation, suffix):
    """As Pillow itself turns them."""
    pixels = np.zeros((32, 32, 3), "uint8")
    pixels[:16, :16] = (255, 0, 0)
    pixels[:16, 16:] = (0, 255, 0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"photograph.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = decode(str(path), 32, 3, None).astype(int)
    assert np.abs(found[8::16, 8::16] - upright[8::16, 8::16]).max() < 10


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled(tmp_path, channels):
    gradient = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype("uint16")
    Image.fromarray(gradient).save(tmp_path / "x.png")
    found = decode(str(tmp_path / "x.png"), 56, channels, None)
    assert found.shape == (56, 56, channels)
    assert 90 < np.median(found) < 165 and found.min() < 20 and found.max() > 235
