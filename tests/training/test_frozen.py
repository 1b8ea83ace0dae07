"""Networks with frozen layers, the usual state of transfer learning, in trainings."""

import warnings

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, Pruning, adjoin, prune, remove_shortcuts, search
from tfjointrd.training import Adjoined

L = keras.layers


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def tuned(tiny):
    """A frozen base with a new head, as Keras' guide to transfer learning builds it."""
    whole = tiny(filters=8)
    base = keras.Model(whole.input, whole.get_layer("stage3_relu").output, name="base")
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(base(inputs, training=False))
    return keras.Model(inputs, L.Dense(3, name="head")(x), name="tuned")


def adjoined(network, **options):
    with pytest.warns(UserWarning, match=r"'tuned' has \d+ frozen layers \(trainable=False\)"):
        return adjoin(network, 2, round_to=1, kl_weight=1.0, **options)


def learning(pair):
    return {variable.path.rpartition("/")[2] for variable in pair.trainable_variables}


def test_the_small_network_takes_its_own_statistics(tiny, images):
    x, y = images
    network = tuned(tiny)
    pair = adjoined(network)
    assert learning(pair) == {"gamma", "beta", "kernel", "bias"}  # the latter two of the head
    assert sum("kernel" in variable.path for variable in pair.trainable_variables) == 1
    before = {id(v): numpy(v).copy() for v in pair.network.variables}
    pair.compile(keras.optimizers.SGD(0.05))
    pair.fit(x, y, batch_size=16, epochs=2, verbose=0)
    layer = pair.network.get_layer("stage2_bn1")
    moved = [v for v in pair.network.variables if np.any(numpy(v) != before[id(v)])]
    changed = {id(v) for v in moved}
    assert {id(v) for v in layer.own["small"].variables} <= changed
    assert not changed & {id(v) for v in layer.full.variables}
    assert [tuple(v.shape) for v in moved if v.name == "kernel"] == [(24, 3)]  # the head's
    for key, value in network.get_layer("base").get_layer("stage2_bn1").get_config().items():
        assert pair.full().get_layer("stage2_bn1").get_config()[key] == value  # frozen still
    small = pair.small()
    np.testing.assert_allclose(small.predict(x, verbose=0), pair.predict(x, verbose=0)["small"], atol=1e-5)


def test_shared_normalisation_uses_the_statistics_of_the_batch_in_training(tiny, images):
    pair = adjoined(tuned(tiny), batch_normalization="shared")
    assert learning(pair) == {"kernel", "bias"}
    outputs = [pair.network(images[0], training=training) for training in (False, True)]
    np.testing.assert_allclose(outputs[0]["full"], outputs[1]["full"], atol=1e-5)
    assert np.abs(numpy(outputs[0]["small"]) - numpy(outputs[1]["small"])).max() > 1e-3


def test_what_is_frozen_is_saved(tiny, tmp_path):
    pair = adjoined(tuned(tiny))
    pair.network.get_layer("stage2_bn1").own["small"].trainable = False
    pair.network.get_layer("stage2_conv1").trainable = True
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert [v.path for v in again.trainable_variables] == [v.path for v in pair.trainable_variables]


def test_files_of_earlier_versions_name_whole_layers(tiny):
    config = adjoined(tuned(tiny)).get_config()
    config["frozen"] = ["stage2_bn1", "stage2_conv1"]
    network = Adjoined.from_config(config).network
    norm = network.get_layer("stage2_bn1")
    assert not (norm.trainable or norm.full.trainable or norm.own["small"].trainable)
    assert network.get_layer("stage3_bn2").own["small"].trainable


@pytest.mark.filterwarnings("error::UserWarning")
def test_layers_that_both_networks_compute_alike_may_be_frozen(tiny):
    network = tiny(filters=8)
    for layer in network.layers:
        layer.trainable = not layer.name.startswith(("stem", "stage1"))
    adjoin(network, 2, round_to=1)
    network.trainable = False
    network.trainable = True
    adjoin(network, 2, round_to=1)
    network.get_layer("stage2_bn1").trainable = False  # its small twin has its own
    assert adjoin(network, 2, round_to=1).network.get_layer("stage2_bn1").own["small"].trainable


def test_a_search_keeps_frozen_weights(tiny):
    network = tuned(tiny)
    with pytest.warns(UserWarning, match="frozen layers"):
        dan = search(network, (1, 2), round_to=1, target_macs=0.8)
    assert dan.choices() != [0] * len(dan.groups)
    base, derived = network.get_layer("base"), dan.derive().full()
    np.testing.assert_array_equal(*(numpy(net.get_layer("stage3_conv2").kernel) for net in (base, derived)))
    assert np.any(numpy(network.get_layer("head").kernel) != numpy(derived.get_layer("head").kernel))


def test_a_plain_student_has_to_learn(tiny):
    network = tuned(tiny)
    with pytest.warns(UserWarning, match=r"'plain_tuned' has \d+ frozen layers .* have to learn anew"):
        JointRD(remove_shortcuts(network), network)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_base_that_learns_again(tiny):
    network = tuned(tiny)
    network.get_layer("base").trainable = True
    pair = adjoin(network, 2, round_to=1)
    assert len(pair.trainable_variables) > len(network.trainable_variables) > 20


@pytest.mark.parametrize("make", [prune, Pruning])
def test_a_warning_before_frozen_layers_lose_channels(tiny, make):
    network = tuned(tiny)
    with pytest.warns(UserWarning, match=r"'tuned' has \d+ frozen layers .* lose channels, .* does not adapt"):
        make(network, target_macs=0.5, round_to=1)
    network.get_layer("base").trainable = True
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make(network, target_macs=0.5, round_to=1)
