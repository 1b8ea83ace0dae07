import keras
import numpy as np
import pytest

from tfjointrd import export
from tfjointrd.report import latencies, latency

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


def network(filters):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(filters, 3, padding="same")(image)
    x = keras.layers.Conv2D(filters, 3, padding="same")(x)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return export.tflite(network(4), tmp_path_factory.mktemp("small") / "small.tflite").path


def test_figures(small):
    measured = latency(small, runs=20, warmup=2)
    assert 0 < measured.min_ms <= measured.median_ms <= measured.p90_ms
    assert (measured.runs, measured.threads) == (20, 1)
    assert f"{measured.median_ms:.3f} ms median" in str(measured)


def test_ranks_networks(small, tmp_path):
    large = export.tflite(network(64), tmp_path / "large.tflite").path
    assert latency(large, runs=10).min_ms > 3 * latency(small, runs=10).min_ms


def test_side_by_side(small, tmp_path):
    large = export.tflite(network(64), tmp_path / "large.tflite").path
    found = latencies([large, small, large], runs=10)
    assert [one.runs for one in found] == [10, 10, 10]
    assert found[0].min_ms > 3 * found[1].min_ms and found[2].min_ms > 3 * found[1].min_ms


def test_integers_in(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3))
    path = export.tflite(network(4), tmp_path / "int8.tflite", "int8", images, min_agreement=0).path
    assert latency(path, threads=2, runs=1, warmup=0).min_ms > 0


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"runs": 1.5}, {"warmup": -1}, {"threads": 0}])
def test_unfit_arguments(arguments, small):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}={value}"):
        latency(small, **arguments)
