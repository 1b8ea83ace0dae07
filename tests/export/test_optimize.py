"""Training with quantisation, sparsity and shared weights, and the files that come out."""

import os

import keras
import numpy as np
import pytest
from bridge_networks import APPLICATIONS, MORE, OURS, application
from small_networks import pixels, small_network, with_random_statistics

import tfjointrd as jrd
from tfjointrd.export import cluster_weights, prune_low_magnitude, quantization_aware
from tfjointrd.export.file_graph import in_integers, read_file, unpack
from tfjointrd.export.tf_keras_bridge.quantizable import quantizable

layers = keras.layers


@pytest.fixture(autouse=True)
def eagerly(request):
    """A few steps of a small network cost less than tracing one."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(request.function is not test_digits)
    yield
    tf.config.run_functions_eagerly(False)


def examples(count=48, shape=(8, 8, 1), classes=4):
    return pixels(count, shape), np.arange(count) % classes


def weights_in(path):
    """The stored int8 weights of a file, `(channels, ...)`, by the layer that they belong to."""
    content = path.read_bytes()
    graph, model = read_file(content), unpack(content)
    found = {}
    for step in graph.operators:
        if step.kind in ("CONV_2D", "FULLY_CONNECTED"):
            index = graph.weights(step)
            stored = model.buffers[model.subgraphs[0].tensors[index].buffer].data
            found[step.layers[-1].removeprefix("quant_")] = stored.view("int8").reshape(graph.shapes[index])
    return found


def test_a_file_of_integers(tmp_path):
    network, (x, y) = small_network(), examples()
    before = network.get_weights()
    trained = quantization_aware(network, (x, y), epochs=2, batch_size=24, validation_data=(x, y))
    report = trained.tflite(tmp_path / "aware.tflite")
    assert set(trained.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(trained.history["loss"]) == 2 and trained.history["loss"][1] < trained.history["loss"][0]
    assert in_integers((tmp_path / "aware.tflite").read_bytes())
    assert report.input_type == "uint8" and report.output_type == "float32" and report.quantization == "int8"
    np.testing.assert_allclose(report.input_quantization, (1.0, 0), atol=1e-6)  # a byte is a pixel
    assert report.relative_error < 0.02
    assert abs(jrd.export.accuracy(report.path, (x, y)) - trained.accuracy((x, y))) < 0.05
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert read_file(report.path.read_bytes()).signature[0].popitem()[1] == "image"
    check_what_is_left()
    check_bad_files(trained, tmp_path / "bad.tflite")


def check_what_is_left():
    """Neither the environment nor `tf.keras` shows that another Keras was imported."""
    import tensorflow as tf

    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.__version__.startswith("3.")


def check_bad_files(trained, path):
    """A file that cannot be written, or is not right, is not kept."""
    with pytest.raises(ValueError, match="Expected `input_type`"):
        trained.tflite(path, input_type="int16")
    with pytest.raises(FileNotFoundError):
        trained.tflite(path.parent / "none" / "bad.tflite")
    with pytest.raises(ValueError, match="and was not kept"):
        trained.tflite(path, min_agreement=1.1)
    assert not path.exists()


def share_of_zeros(network, name):
    return np.mean(np.asarray(network.get_layer(name).kernel) == 0)


def deep(classes=4):
    """Two convolutions whose numbers of channels are multiples of four."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="first")(image / 255.0)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="second")(layers.ReLU()(x))
    x = layers.AveragePooling2D(2, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(image, layers.Dense(classes, name="scores")(layers.Flatten()(x)), name="deep")


def test_sparse_then_quantized(tmp_path):
    network = deep()
    before = network.get_weights()
    sparse = prune_low_magnitude(network, examples(), 0.75, epochs=4, keep=["sco*"])
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert [layer.name for layer in sparse.layers] == [layer.name for layer in network.layers]
    assert share_of_zeros(sparse, "first") == share_of_zeros(sparse, "second") == 0.75
    assert share_of_zeros(sparse, "scores") == 0
    assert not np.array_equal(sparse.get_layer("scores").kernel, network.get_layer("scores").kernel)
    trained = quantization_aware(sparse, examples(), epochs=2, preserve="sparsity")
    found = weights_in(trained.tflite(tmp_path / "sparse.tflite").path)
    kernel = np.asarray(sparse.get_layer("second").kernel).transpose(3, 0, 1, 2)
    assert (found["second"][kernel == 0] == 0).all()


def test_two_of_four():
    sparse = prune_low_magnitude(deep(), examples(), "2:4", epochs=2)
    kernel = np.asarray(sparse.get_layer("second").kernel)
    groups = kernel.transpose(3, 0, 1, 2).reshape(-1, 4)
    assert ((groups == 0).sum(axis=1) == 2).all()
    assert share_of_zeros(sparse, "scores") == 0.5


@pytest.mark.parametrize("preserve", ["sparsity and clusters", pytest.param("clusters", marks=pytest.mark.slow)])
def test_clustered_then_quantized(preserve, tmp_path):
    sparse = "sparsity" in preserve
    network = prune_low_magnitude(deep(), examples(), 0.5, epochs=2) if sparse else deep()
    shared = cluster_weights(network, examples(), 6, epochs=1, preserve_sparsity=sparse)
    kernels = {name: np.asarray(shared.get_layer(name).kernel) for name in ("first", "second", "scores")}
    assert all(len(np.unique(kernel)) <= 6 + sparse for kernel in kernels.values())
    if sparse:
        assert share_of_zeros(shared, "second") >= 0.5
    trained = quantization_aware(shared, examples(), epochs=1, preserve=preserve)
    found = weights_in(trained.tflite(tmp_path / "shared.tflite").path)
    assert max(len(np.unique(channel)) for channel in found["second"]) <= 6 + sparse


def pre_activation(x):
    """Batch normalisations behind an addition, hard activations, and a ReLU right behind a convolution."""
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.Activation("hard_silu")(layers.BatchNormalization()(x))
    y = layers.ReLU()(layers.Conv2D(4, 3, padding="same")(y))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Add()([x, y])))
    y = layers.Concatenate()([layers.SeparableConv2D(4, 3)(y), layers.MaxPooling2D(3, 1)(y)])
    y = layers.Multiply()([y, layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))])
    return layers.Flatten()(layers.PReLU(shared_axes=[1, 2])(y))


def unusual():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling([1 / 60, 1 / 70, 1 / 80], [-2.0, -1.8, -1.5])(image)
    x = layers.Dense(4, activation="softmax", name="scores")(pre_activation(x))
    return with_random_statistics(keras.Model(image, x, name="unusual"))


def test_a_quantizable_network_is_the_same_function():
    network = unusual()
    form, scales = quantizable(network)
    x = pixels(3, (8, 8, 3)).astype("float32")
    np.testing.assert_allclose(form(x), network(x, training=False), atol=1e-5)
    assert len(scales) == 3
    rescaling = form.get_layer(network.layers[1].name)
    assert isinstance(rescaling, layers.DepthwiseConv2D) and not rescaling.trainable


@pytest.mark.slow
def test_unusual_networks_become_integers(tmp_path):
    trained = quantization_aware(unusual(), examples(shape=(8, 8, 3)), epochs=1)
    trained.tflite(tmp_path / "unusual.tflite")  # refuses a file that computes in float


def with_layer_normalization():
    image = keras.Input((8, 8, 1))
    x = layers.LayerNormalization(name="norm")(layers.Conv2D(4, 3)(image))
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(x)))


def test_layers_that_stay_in_float(tmp_path):
    network = with_layer_normalization()
    with pytest.raises(ValueError, match=r"layer 'norm' \(LayerNormalization\).*in_float=\['norm'\]"):
        quantization_aware(network, examples(), epochs=1)
    trained = quantization_aware(network, examples(), epochs=1, in_float=["norm"])
    assert not in_integers(trained.tflite(tmp_path / "partly.tflite").path.read_bytes())


def test_batches_of_any_form():
    x, y = examples()
    train, _ = jrd.data.load("digits", batch_size=64)
    train.limit(256)
    prune_low_magnitude(small_network(classes=10), train, epochs=3)
    assert train.epoch == 3  # as after `fit`
    one_hot = np.eye(4, dtype="float32")[y]
    for form in [iter([(x, y)]), lambda: [(x, one_hot)], [(x[:8], y[:8]), (x[8:], y[8:])]]:
        sparse = prune_low_magnitude(small_network("softmax"), form, epochs=2)
        assert share_of_zeros(sparse, "scores") == 0.5
    prune_low_magnitude(small_network("sigmoid", 1), (x, y % 2), epochs=1)
    prune_low_magnitude(small_network(classes=1), (x, y * 1.5), epochs=1, loss="mean_squared_error")


def with_nan():
    network = small_network()
    network.layers[-1].kernel.assign(np.full(network.layers[-1].kernel.shape, np.nan))
    return network


def two_outputs():
    network = small_network()
    return keras.Model(network.input, [network.output, layers.Dense(2)(network.output)])


BAD = {
    "no epochs": ({"epochs": 0}, "Expected `epochs` to be a positive integer. Received: epochs=0"),
    "half an epoch": ({"epochs": 1.5}, "Expected `epochs`"),
    "batches of nothing": ({"batch_size": 0}, "Expected `batch_size`"),
    "preserve": ({"preserve": "zeros"}, "Expected `preserve` to be one of"),
    "pattern": ({"in_float": ["no*"]}, "Expected `in_float` to hold names or patterns"),
    "no labels": ({"train": examples()[0]}, "Received: batches without labels"),
    "shape": ({"train": examples(shape=(9, 9, 1))}, "Expected `train` of shape"),
    "labels": ({"train": (examples()[0], np.full(48, 7))}, "Expected labels between 0 and 3"),
    "no images": ({"train": (pixels(0), np.zeros(0, int))}, "Expected `train` to hold images"),
    "validation": ({"validation_data": examples()[0]}, "Expected `validation_data` to hold batches"),
    "NaN": ({"network": with_nan}, "Expected `model` to have finite weights"),
    "outputs": ({"network": two_outputs}, "Expected `network` to have one output"),
    "pair": ({"network": lambda: jrd.adjoin(OURS["cifar_resnet"](), alpha=2)}, "Expected one network to deploy"),
    "diverging": ({"loss": lambda y, outputs: outputs[:, 0] * float("nan")}, "Expected a loss that stays finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, message = BAD[name]
    options = {"train": examples(), "epochs": 1, "network": small_network, **changes}
    network, train = options.pop("network")(), options.pop("train")
    with pytest.raises(ValueError) as error:
        quantization_aware(network, train, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("sparsity", [0, 1, 1.5, "4:2", "0:4", "half", None])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match="Expected `sparsity` above 0 and below 1, or a pattern such as '2:4'"):
        prune_low_magnitude(small_network(), examples(), sparsity, epochs=1)


@pytest.mark.parametrize("clusters", [1, 2.5, "16"])
def test_bad_clusters(clusters):
    with pytest.raises(ValueError, match="Expected `number_of_clusters`"):
        cluster_weights(small_network(), examples(), clusters, epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OURS, *MORE, *APPLICATIONS])
def test_networks_become_integers(name, tmp_path):
    network = {**OURS, **MORE}[name]() if name in {**OURS, **MORE} else application(name, **APPLICATIONS[name])
    with_random_statistics(network)
    x = pixels(8, network.input_shape[1:])
    trained = quantization_aware(network, (x, np.arange(8) % 5), epochs=1, learning_rate=1e-6)
    trained.tflite(tmp_path / "file.tflite", min_agreement=0)


@pytest.mark.slow
def test_digits(tmp_path):
    """Within half a point of the float32 network, by file, in under two minutes."""
    import time

    train, test = jrd.data.load("digits", batch_size=64)
    network = jrd.models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    network.fit(train, epochs=15, verbose=0)
    began = time.process_time()
    trained = quantization_aware(network, train, epochs=30)
    report = trained.tflite(tmp_path / "digits.tflite")
    assert time.process_time() - began < 120
    reached, before = jrd.export.accuracy(report.path, test), network.evaluate(test, verbose=0)[1]
    assert reached >= before - 0.005
