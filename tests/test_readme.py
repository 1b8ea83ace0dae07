"""The examples of README and docs run as they stand, with fewer images, epochs and layers."""

import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from shallow import make_shallow

import tfjointrd as jrd

ROOT = Path(__file__).parents[1]


def examples(page):
    """The Python code of a page, shortened."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [re.sub(r"epochs=\d+", "epochs=1, verbose=0", part) for part in code]


def few_digits(load):
    """Loads a tenth of the training images."""

    def loaded(*arguments, **options):
        train, test = load(*arguments, **options)
        train.hold_out(0.9)
        return train, test

    return loaded


def example_with(page, words):
    """The one example of a page that has these words."""
    (code,) = (code for code in examples(page) if words in code)
    return code


@pytest.fixture
def trained_on_digits():
    """The names that the examples take for granted: data, a network and what it was compiled with."""
    train, test = jrd.data.load("digits", batch_size=64)
    train.hold_out(0.9)
    network = jrd.models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1))
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return {"jrd": jrd, "keras": keras, "train": train, "test": test, "network": network}


def test_readme(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    make_shallow(monkeypatch)
    monkeypatch.setattr(jrd.data, "load", few_digits(jrd.data.load))
    monkeypatch.setattr(jrd.export, "tflite", functools.partial(jrd.export.tflite, min_agreement=0.0))
    first, _, *others = examples("README.md")
    names = {}
    for number, code in enumerate((first, *others)):
        exec(compile(code, f"README.md, example {number}", "exec"), names)
    assert (tmp_path / "small.tflite").is_file() and "small.tflite" in capsys.readouterr().out
    assert jrd.report.profile(names["small"]).macs < jrd.report.profile(names["network"]).macs
    assert not any("Add" in type(layer).__name__ for layer in names["plain"].layers)


def test_readme_with_a_network_and_photographs_of_ones_own(monkeypatch, tmp_path, capsys):
    """The second example takes the place of the first one's lines before `prune`, as the README says."""
    monkeypatch.chdir(tmp_path)
    for name in ("cats", "dogs"):
        folder = tmp_path / "my_photos" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3))
            keras.utils.save_img(folder / f"{number}.png", pixels, scale=False)
    base = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 3, strides=4, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="efficientnet_lite0",
    )
    base.trainable = False
    x = keras.Input((32, 32, 3))
    keras.Model(x, keras.layers.Dense(2, "softmax")(base(x, training=False))).save("my_network.keras")

    first, own, *_ = examples("README.md")
    start = first.index("train, test = ")
    assert first[start:].count("\n", 0, first.index("small = ") - start) == 5
    code = first[:start] + own.replace("image_size=224", "image_size=32") + first[first.index("small = ") :]
    monkeypatch.setattr(jrd.export, "tflite", functools.partial(jrd.export.tflite, min_agreement=0.0))
    exec(code, names := {})
    before, after = (jrd.report.profile(names[name]) for name in ("network", "small"))
    assert names["test"].size == 2 and after.macs < before.macs
    assert (tmp_path / "before.tflite").stat().st_size > (tmp_path / "small.tflite").stat().st_size
    assert "before.tflite" in capsys.readouterr().out


def test_several_devices_with_the_data_of_the_first_example(monkeypatch):
    make_shallow(monkeypatch)
    train, test = jrd.data.load("digits", batch_size=64)
    train.hold_out(0.9)
    (code,) = (code for code in examples("docs/devices.md") if "distribute.mirrored()" in code)
    with pytest.warns(UserWarning, match="Expected several devices. Received: one"):
        exec(code, names := {"jrd": jrd, "train": train, "test": test})
    assert names["pair"].small().input_shape == (None, 8, 8, 1)


def test_from_a_trained_network(trained_on_digits):
    """Each way from a trained network, as it stands, on few images."""
    names = trained_on_digits
    network = names["network"]
    before = network.get_weights()
    exec(example_with("docs/methods.md", "jrd.Pruning").replace("epochs=1,", "epochs=2,"), names)
    macs = [jrd.report.profile(one).macs for one in (network, names["small"], names["pair"].small())]
    assert macs[1] <= 0.5 * macs[0] and macs[2] < macs[0]
    for ours, theirs in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_adjoined_networks(trained_on_digits):
    exec(example_with("docs/methods.md", "alphas=(2, 4, 8)"), trained_on_digits)
    several, small = (trained_on_digits[name] for name in ("several", "small"))
    macs = [jrd.report.profile(several.small(alpha=alpha)).macs for alpha in (2, 4, 8)]
    assert sorted(macs, reverse=True) == macs and len(set(macs)) > 1
    assert jrd.report.profile(small).macs < jrd.report.profile(trained_on_digits["network"]).macs


def test_search(trained_on_digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = trained_on_digits
    exec(example_with("docs/methods.md", "GateRecorder()"), names)
    macs = [jrd.report.profile(names[name]).macs for name in ("network", "small")]
    assert macs[1] <= 0.6 * macs[0] and names["found"]["macs"] == macs[1]
    assert all((tmp_path / name).is_file() for name in ("widths.png", "gates.png"))


@pytest.mark.slow
def test_training_for_smaller_files(trained_on_digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = trained_on_digits
    monkeypatch.setattr(jrd.export, "tflite", functools.partial(jrd.export.tflite, min_agreement=0.0))
    exec(example_with("docs/phones.md", "prune_low_magnitude"), names)
    assert all((tmp_path / name).is_file() for name in ("aware.tflite", "sparse.tflite"))
    kernels = [w.numpy() for w in names["sparse"].trainable_variables if w.name == "kernel"]
    assert any(np.mean(kernel == 0) >= 0.79 for kernel in kernels)
    kernels = [w.numpy() for w in names["shared"].trainable_variables if w.name == "kernel"]
    assert any(len(np.unique(kernel)) <= 16 < kernel.size for kernel in kernels)


def test_what_a_file_says_of_itself(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    train, _ = jrd.data.load("digits")
    network = jrd.models.cifar_resnet(8, num_classes=10, input_shape=train.info.input_shape)
    jrd.export.tflite(network, "my.tflite")
    exec(example_with("docs/phones.md", "describe_file"), {"jrd": jrd, "train": train})
    assert "10 classes: 0, 1, 2" in capsys.readouterr().out
