"""What the small network of a pair reaches when the base of a trained network is frozen, and when it learns.

    python benchmarks/frozen_base.py NETWORK.keras IMAGES.npz --layer LAYER --epochs 3

NETWORK is a trained network that takes pixels from 0 to 255, LAYER its last feature map, IMAGES a file with `x_train`,
`y_train`, `x_test` and `y_test`. As in Keras' guide to transfer learning, a new classifier is trained on the frozen
base first. Each line then is the accuracy of the full and of the small network of `adjoin(network, 2)`, the latter as
the training leaves it and with `recalibrate_batchnorm`.

EfficientNet-Lite0 with ImageNet weights (`--layer head_norm_relu6`), the first 200 training and 40 validation images of
each class of the Imagenette 128 px copy, one seed, two cores:

    the network itself: 93.75
    frozen: full 89.75, small 13.25, recalibrated 40.50
    frozen, learning rate 0.1: full 93.25, small 17.75, recalibrated 34.50
    frozen, shared normalisation: full 88.75, small 11.00, recalibrated 38.50
    all learn: full 89.50, small 25.50, recalibrated 60.50
"""

import argparse
import warnings

import keras
import numpy as np

import tfjointrd as jrd

L = keras.layers
BATCH_SIZE = 32


def with_new_head(trained: keras.Model, layer: str, shape: tuple, classes: int) -> keras.Model:
    """The trained network up to a layer, frozen, with a new classifier."""
    resized = jrd.new_head(trained, classes, shape)
    base = keras.Model(resized.input, resized.get_layer(layer).output, name="base")
    base.trainable = False
    inputs = keras.Input(shape)
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(base(inputs, training=False)))
    return keras.Model(inputs, L.Dense(classes, name="head")(x), name="tuned")


def learning(network: keras.Model) -> keras.Model:
    """The same network with all layers learning, those of the nested base too."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    copy.get_layer("base").trainable = True
    return copy


def main():
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("images")
    parser.add_argument("--layer", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(0)
    with np.load(options.images) as file:
        order = np.random.default_rng(0).permutation(len(file["x_train"]))
        x, y = file["x_train"][order].astype("float32"), file["y_train"][order]
        test, labels = file["x_test"].astype("float32"), file["y_test"]

    def accuracy(network):
        return 100 * np.mean(network.predict(test, batch_size=50, verbose=0).argmax(-1) == labels)

    trained = keras.saving.load_model(options.network)
    network = with_new_head(trained, options.layer, x.shape[1:], int(y.max()) + 1)
    network.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(x, y, batch_size=BATCH_SIZE, epochs=5, verbose=0)
    print(f"the network itself: {accuracy(network):.2f}", flush=True)
    for name, of, rate, settings in (
        ("frozen", lambda: network, 0.01, {}),
        ("frozen, learning rate 0.1", lambda: network, 0.1, {}),
        ("frozen, shared normalisation", lambda: network, 0.01, {"batch_normalization": "shared"}),
        ("all learn", lambda: learning(network), 0.01, {}),
    ):
        keras.utils.set_random_seed(0)
        pair = jrd.adjoin(of(), 2, kl_weight=1.0, **settings)
        decay = keras.optimizers.schedules.CosineDecay(rate, options.epochs * len(x) // BATCH_SIZE)
        pair.compile(keras.optimizers.SGD(decay, momentum=0.9))
        pair.fit(x, y, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=0)
        full, small = pair.full(), pair.small()
        figures = [accuracy(full), accuracy(small), accuracy(jrd.recalibrate_batchnorm(small, x[:1024]))]
        print(f"{name}: full {figures[0]:.2f}, small {figures[1]:.2f}, recalibrated {figures[2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
