"""`dirac` and `fold`: which convolutions, the same function, and what other surgery makes of the layers."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, dirac, export, fold, models, remove_shortcuts, slim
from tfjointrd.experiments import Recipe
from tfjointrd.experiments.optimizer import make_optimizer
from tfjointrd.layers.dirac import DiracConv2D

L = keras.layers


def pixels(count=2, size=(8, 8, 3)):
    return np.random.default_rng(3).uniform(0, 255, (count, *size)).astype("float32")


def outputs(network, x=None):
    return keras.ops.convert_to_numpy(network(pixels() if x is None else x, training=False))


def plain(randomised, depth=8, shape=(8, 8, 3)):
    """A plain network for small images, of (depth - 2) / 6 blocks a stage."""
    return randomised(remove_shortcuts(models.cifar_resnet(depth, num_classes=4, input_shape=shape)))


def kinds(network):
    return {layer.name: type(layer) for layer in network.layers if isinstance(layer, L.Conv2D)}


def test_default_takes_all_but_the_first(randomised):
    network = plain(randomised)
    found = kinds(dirac(network))
    assert list(found) == list(kinds(network)) and len(found) == 7
    assert [cls for cls in found.values() if cls is L.Conv2D] == [L.Conv2D] and found["stem_conv"] is L.Conv2D
    assert set(kinds(fold(dirac(network))).values()) == {L.Conv2D}


def test_groups_stay_and_patterns_choose():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(4, 3, name="first")(inputs)
    x = L.Conv2D(4, 3, groups=2, name="grouped")(x)
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    x = L.Conv2D(6, 1, name="last")(x)
    network = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    assert [name for name, cls in kinds(dirac(network)).items() if cls is DiracConv2D] == ["last"]
    chosen = kinds(dirac(network, layers=["first", "la*"]))
    assert [name for name, cls in chosen.items() if cls is DiracConv2D] == ["first", "last"]
    with pytest.raises(ValueError, match="Received: .*'nowhere"):
        dirac(network, layers=["nowhere*"])
    with pytest.raises(
        ValueError, match="Expected `layers` to name .* without groups. Received: 'grouped', with groups=2"
    ):
        dirac(network, layers=["grouped"])
    with pytest.raises(ValueError, match="to have convolutions after its first"):
        dirac(keras.Model(inputs, L.Conv2D(4, 3)(inputs)))
    with pytest.raises(ValueError, match=r"`layers` to name at least one convolution. Received: layers=\[\]"):
        dirac(network, layers=[])
    with pytest.raises(ValueError, match=r"`layers` to be a list of names or patterns. Received: layers='la\*'"):
        dirac(network, layers="la*")
    with pytest.raises(ValueError, match="`beta` other than 0. Received: beta=0"):
        dirac(network, beta=0)
    with pytest.raises(ValueError, match="functional"):
        dirac("network")


def test_starts_from_the_kernels_or_keeps_the_function(randomised):
    network = plain(randomised)
    before = outputs(network)
    changed = dirac(network, alpha=0.7, beta=0.2)
    name = "stage2_block1_conv1"
    layer, source = changed.get_layer(name), network.get_layer(name)
    np.testing.assert_array_equal(layer.kernel.numpy(), source.kernel.numpy())
    np.testing.assert_allclose([*layer.alpha.numpy(), *layer.beta.numpy()], [0.7] * 32 + [0.2] * 32, rtol=1e-6)
    assert np.abs(outputs(changed) - before).max() > 1e-2
    kept = dirac(network, beta=0.2, keep_function=True, name="kept")
    np.testing.assert_allclose(outputs(kept), before, atol=1e-4 * np.abs(before).max())
    assert kept.name == "kept" and changed.name == network.name
    np.testing.assert_array_equal(outputs(network), before)


def test_folded_network_is_the_same_function(randomised):
    network = randomised(dirac(plain(randomised, 20, (32, 32, 3)), beta=0.5), seed=5)
    x = pixels(size=(32, 32, 3))
    before = outputs(network, x)
    folded = fold(network)
    np.testing.assert_allclose(outputs(folded, x), before, atol=1e-5 * max(1.0, np.abs(before).max()))
    assert folded.name == network.name and folded.count_params() < network.count_params()
    np.testing.assert_array_equal(outputs(network, x), before)


def test_folded_after_training_saved_and_exported(randomised, tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization(momentum=0.8)(x))
    x = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.Conv2D(8, 3, 2, padding="same", name="second")(x)))
    network = dirac(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x))))
    images, labels = pixels(48) / 255, np.arange(48) % 3
    before = network.get_layer("second").alpha.numpy()
    network.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images, labels, epochs=3, verbose=0)
    assert np.abs(network.get_layer("second").alpha.numpy() - before).max() > 1e-4
    folded = fold(network)
    np.testing.assert_allclose(outputs(folded, images), outputs(network, images), atol=1e-5)
    network.save(tmp_path / "dirac.keras")
    again = keras.saving.load_model(tmp_path / "dirac.keras")
    np.testing.assert_allclose(outputs(again, images), outputs(network, images), atol=1e-6)
    if keras.backend.backend() == "tensorflow":
        report = export.tflite(folded, tmp_path / "folded.tflite", representative_data=images)
        assert report.max_difference < 1e-4 and (tmp_path / "folded.tflite").is_file()


@pytest.mark.parametrize("padded", [False, True], ids=["same", "padded"])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (8, 7)])
@pytest.mark.parametrize(("kernel", "strides"), [(3, 2), (5, 2), (2, 2), (3, 3), ((3, 5), (2, 1))])
def test_a_strided_identity_takes_the_pixels_that_a_shortcut_takes(kernel, strides, size, padded):
    if padded and kernel not in (3, 5):
        pytest.skip("padded by half a kernel")
    inputs = keras.Input((*size, 3))
    x = L.ZeroPadding2D(kernel // 2)(inputs) if padded else inputs
    x = L.Conv2D(3, kernel, strides, padding="valid" if padded else "same", use_bias=False, name="conv")(x)
    network = dirac(keras.Model(inputs, x), layers=["conv"], alpha=2.0, beta=1e-12)
    x, (down, right) = pixels(size=(*size, 3)), np.broadcast_to(strides, 2)
    expected = 2 * x[:, ::down, ::right]
    np.testing.assert_allclose(outputs(network, x), expected, rtol=1e-6)
    np.testing.assert_allclose(outputs(fold(network), x), expected, rtol=1e-6)
    again = keras.Model.from_config(network.get_config())
    assert again.get_layer("conv").get_config()["tap"] == network.get_layer("conv").tap


def test_files_without_a_tap_and_unknown_sizes_keep_the_centre():
    config = DiracConv2D(3, 3, strides=2, padding="same").get_config()
    del config["tap"]
    old = DiracConv2D.from_config(config)
    old.build((None, 8, 8, 3))
    kernel = keras.ops.convert_to_numpy(old.effective_kernel())
    np.testing.assert_allclose(kernel[1, 1].diagonal(), 1, atol=0.1)
    inputs = keras.Input((None, None, 3))
    network = keras.Model(inputs, L.Conv2D(3, 3, 2, padding="same", name="conv")(inputs))
    assert dirac(network, layers=["conv"]).get_layer("conv").tap is None
    with pytest.raises(ValueError, match=r"`tap` to lie within a kernel of 3x3. Received: tap=\(3, 0\)"):
        DiracConv2D(3, 3, tap=(3, 0))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_leaves_the_factors_out(randomised, optimizer):
    """With zero gradients a step moves what decays, and nothing else."""
    network = dirac(plain(randomised))
    step = make_optimizer(Recipe(optimizer=optimizer, schedule="steps", weight_decay=0.1), 10)
    before = [variable.numpy() for variable in network.trainable_variables]
    step.apply(
        [keras.ops.zeros(variable.shape) for variable in network.trainable_variables], network.trainable_variables
    )
    moved = {"kernel": set(), "alpha": set(), "beta": set(), "gamma": set(), "bias": set()}
    for variable, old in zip(network.trainable_variables, before, strict=True):
        moved[variable.name].add(bool(np.abs(variable.numpy() - old).max()))
    assert moved == {"kernel": {True}, "alpha": {False}, "beta": {False}, "gamma": {False}, "bias": {False}}


def test_slim_keeps_first_channels(randomised):
    """A narrow Dirac network is the narrow one of the folded network."""
    network = randomised(dirac(plain(randomised), beta=0.5), seed=7)
    keep = {"stage2_block1_conv1": range(16), "stage2_block1_conv2": range(20), "stage3_block1_conv1": range(10)}
    narrow = slim(network, keep)
    assert narrow.get_layer("stage2_block1_conv2").alpha.shape == (20,)
    expected = outputs(slim(fold(network), keep))
    np.testing.assert_allclose(outputs(narrow), expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_slim_refuses_channels_that_change_places(randomised):
    network = dirac(plain(randomised))
    keep = {"stage2_block1_conv1": [0, 3, 5]}
    with pytest.raises(ValueError, match=r"\[0, 3, 5\] of its output. `tfjointrd.fold` makes it an ordinary"):
        slim(network, keep)
    assert slim(fold(network), keep).get_layer("stage2_block1_conv1").filters == 3


def test_slim_keeps_the_same_channels_of_input_and_output():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, name="first")(inputs)
    x = L.Conv2D(6, 3, padding="same", name="second")(x)
    network = dirac(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
    keep = {"first": [1, 3, 5], "second": [1, 3, 5]}
    np.testing.assert_allclose(outputs(slim(network, keep)), outputs(slim(fold(network), keep)), rtol=1e-4)


def test_adjoin_asks_for_a_folded_network(randomised):
    network = dirac(plain(randomised))
    with pytest.raises(ValueError, match="`tfjointrd.fold` turns them into .* Received: .* and 5 others"):
        adjoin(network)
    assert adjoin(fold(network), round_to=1).small().count_params() < network.count_params()
