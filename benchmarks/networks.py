"""What works with the networks that users bring: every family of keras.applications, image backbones of keras-hub.

Writes the table of docs/networks.md. Networks have random weights, and the statistics of random images, so that outputs
tell images apart. Rows of networks that are not named stay as they are.

    python benchmarks/networks.py                         # all of keras.applications, and keras-hub if it is installed
    python benchmarks/networks.py ResNet50 hub.VGG        # these alone
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import tfjointrd as jrd
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.shortcuts import shortcuts

TABLE = Path(__file__).parents[1] / "docs" / "networks.md"
HEADER = ("Network", "Pixels", "adjoin, alpha 2", "remove_shortcuts", "JointRD", "search", "slim", "export")
START, END = "<!-- table: python benchmarks/networks.py -->", "<!-- end of the table -->"
CLASSES = 5
TOLERANCE = 1e-3  # of the largest output, over networks of up to some hundred layers in float32
# A network of each family of keras.applications, the smallest, and the pixels it is tried at.
APPLICATIONS = {
    "ConvNeXtTiny": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "InceptionResNetV2": 96,
    "InceptionV3": 96,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "NASNetMobile": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "VGG19": 64,
    "Xception": 96,
}
# Arguments of keras-hub's backbones, of the published kinds with fewer blocks.
BACKBONES = {
    "ResNet": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256],
        "stackwise_num_blocks": [2, 2, 2],
        "stackwise_num_strides": [1, 2, 2],
        "block_type": "basic_block",
    },
    "MobileNet": {  # V3, small
        "stackwise_expansion": [[72, 88], [96, 240], [120, 144]],
        "stackwise_num_blocks": [2, 2, 2],
        "stackwise_num_filters": [[24, 24], [40, 40], [48, 48]],
        "stackwise_kernel_size": [[3, 3], [5, 5], [5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1], [1, 1]],
        "stackwise_se_ratio": [[None, None], [0.25, 0.25], [0.25, 0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"], ["hard_swish", "hard_swish"]],
        "stackwise_padding": [[1, 1], [2, 2], [2, 2]],
        "output_num_filters": 1024,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
        "input_num_filters": 16,
        "depthwise_filters": 16,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "squeeze_and_excite": 0.5,
        "last_layer_filter": 288,
    },
    "EfficientNet": {  # V2, small
        "stackwise_width_coefficients": [1.0, 1.0, 1.0],
        "stackwise_depth_coefficients": [1.0, 1.0, 1.0],
        "stackwise_kernel_sizes": [3, 3, 3],
        "stackwise_num_repeats": [2, 2, 3],
        "stackwise_input_filters": [24, 24, 48],
        "stackwise_output_filters": [24, 48, 64],
        "stackwise_expansion_ratios": [1, 4, 4],
        "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0.25],
        "stackwise_strides": [1, 2, 2],
        "stackwise_block_types": ["cba", "fused", "unfused"],
    },
    "CSPNet": {  # CSPDarkNet
        "stem_filters": 32,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2, 2],
        "stackwise_strides": [2, 2, 2],
        "stackwise_num_filters": [64, 128, 256],
        "bottle_ratio": (0.5, 1.0),
        "block_ratio": (1.0, 0.5),
        "expand_ratio": (2.0, 1.0),
        "stem_padding": "same",
        "stage_type": "csp",
        "block_type": "dark_block",
        "down_growth": True,
    },
    "DenseNet": {"stackwise_num_repeats": [4, 4, 4]},
    "VGG": {"stackwise_num_repeats": [2, 2, 3], "stackwise_num_filters": [64, 128, 256]},
    "Xception": {
        "stackwise_conv_filters": [[32, 64], [128, 128], [256, 256], [256, 256, 256], [256, 256, 256]],
        "stackwise_pooling": [True, True, True, False, False],
    },
}


def application(name: str) -> keras.Model:
    """A network of keras.applications with new weights, which returns logits."""
    pixels = APPLICATIONS.get(name, 64)
    options = {"weights": None, "input_shape": (pixels, pixels, 3), "classes": CLASSES}
    return getattr(keras.applications, name)(**options, classifier_activation=None)


def backbone(name: str, pixels: int = 64) -> keras.Model:
    """A classifier on a backbone of keras-hub with new weights."""
    import keras_hub

    images = keras.Input((pixels, pixels, 3))
    features = getattr(keras_hub.models, f"{name}Backbone")(**BACKBONES[name])(images)
    features = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(images, keras.layers.Dense(CLASSES)(features), name=f"{name.lower()}_classifier")


def has_hub() -> bool:
    """Whether keras-hub can be imported."""
    try:
        import keras_hub  # noqa: F401
    except ImportError:
        return False
    return True


def known() -> dict[str, Callable[[], keras.Model]]:
    """All networks of the table by their names in it."""
    rows = {name: lambda name=name: application(name) for name in APPLICATIONS}
    return {**rows, **{f"hub.{name}": lambda name=name: backbone(name) for name in BACKBONES}}


def randomise(model: keras.Model) -> None:
    """Random weights where networks start with constants, and the statistics of images, so that outputs differ."""
    rng, layers = np.random.default_rng(0), list(read_graph(model).sources.values())
    means = [x for layer in layers if isinstance(layer, keras.layers.Normalization) for x in layer.weights]
    for variable in model.weights:
        if any(variable is mean for mean in means):  # of pixels, of which such a layer computes with copies
            continue
        value = ops.convert_to_numpy(variable.value)
        if "float" in variable.dtype and np.ptp(value) == 0:
            ones = value.size and value.flat[0] > 0  # gammas, variances, the scales of ConvNeXt
            low, high = (0.5, 1.5) if ones else (-0.1, 0.1)
            if variable.name == "bias":  # which would drown what is left of the images at the end of a VGG
                low, high = -1e-5, 1e-5
            variable.assign(rng.uniform(low, high, value.shape))
    normalizations = {id(x): x for x in layers if isinstance(x, keras.layers.BatchNormalization)}.values()
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    model(images_for(model, 8), training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
        layer.moving_variance.assign(layer.moving_variance + 1e-3)


def images_for(model: keras.Model, count: int = 2) -> np.ndarray:
    """Random images that the network takes."""
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")


def numpy(x) -> np.ndarray:
    """A tensor as an array."""
    return ops.convert_to_numpy(x)


def check_close(found, expected, what: str) -> None:
    """Fails where outputs differ by more than `TOLERANCE` of the largest one, or are the same for all images."""
    found, expected = numpy(found), numpy(expected)
    scale = np.abs(expected).max()
    if not np.isfinite(scale) or np.ptp(expected, axis=0).max() < 1e-3 * scale:
        raise AssertionError(f"{what}: the outputs do not tell images apart, so that nothing can be compared")
    if np.abs(found - expected).max() > TOLERANCE * scale:
        raise AssertionError(f"{what}: outputs differ by {np.abs(found - expected).max() / scale:.1e} of the largest")


# === Columns: each returns what the table says, and raises where something does not work ===


def adjoined(model: keras.Model) -> tuple[str, keras.Model]:
    """The small network computes what the pair does; says what it costs."""
    pair = jrd.adjoin(model, alpha=2)
    x = images_for(model)
    outputs, small = pair(x, training=False), pair.small()
    check_close(pair.full()(x, training=False), outputs["full"], "full")
    check_close(small(x, training=False), outputs["small"], "small")
    share = jrd.report.profile(small).macs / jrd.report.profile(model).macs
    return f"{share:.0%} of MACs", small


def without_shortcuts(model: keras.Model) -> tuple[str, keras.Model | None]:
    """How many additions go."""
    before = len(additions(model))
    if not before:
        return "no additions", None
    plain = jrd.remove_shortcuts(model)
    if not np.isfinite(numpy(plain(images_for(model), training=False))).all():
        raise AssertionError("the plain network's outputs are not finite")
    return f"{before - len(additions(plain))} of {before} additions", plain


def additions(model: keras.Model) -> list[str]:
    """Names of the additions of two tensors."""
    graph = read_graph(model)
    joins = {name for name, spec in graph.layers.items() if jrd.surgery.rules.describe(spec).joins == "add"}
    return [call.layer for call in graph.calls if call.layer in joins and len(call.inputs) > 1]


def jointly(model: keras.Model, plain: keras.Model | None) -> str:
    """A training step through the teacher's tails."""
    if plain is None:
        return "no additions"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of learned connections
        joint = jrd.JointRD(plain, model)
    joint.compile(keras.optimizers.SGD(1e-3, clipnorm=1.0), run_eagerly=True)
    loss = joint.fit(images_for(model), np.arange(2), batch_size=2, verbose=0).history["loss"][0]
    if not np.isfinite(loss):
        raise AssertionError(f"the loss is {loss}")
    left = len(shortcuts(read_graph(joint.student)))
    connected = f", {len(joint.boundary_connectors)} connected" if joint.boundary_connectors else ""
    boundaries = f"{len(joint.boundaries)} boundar{'y' if len(joint.boundaries) == 1 else 'ies'}"
    return f"{boundaries}{connected}" + (f", {left} shortcuts left" if left else "")


def searched(model: keras.Model) -> str:
    """The small network computes what the gates chose."""
    dan = jrd.search(model, alphas=(1, 2, 4), gamma=0.0)  # no budget, so that the gates alone choose
    dan.gates.eta.assign(np.random.default_rng(2).normal(size=dan.gates.eta.shape))
    x = images_for(model)
    check_close(dan.small()(x, training=False), dan(x, training=False)["small"], "chosen")
    return f"{len(dan.groups)} widths"


def slimmed(model: keras.Model) -> str:
    """All channels kept is the same function; half of them is a network that computes."""
    channels = Channels(read_graph(model))
    widths = {name: channels.width(name) for name in channels.producers() if not channels.fixed(name)}
    x = images_for(model)
    expected = model(x, training=False)
    check_close(jrd.slim(model, {n: range(width) for n, width in widths.items()})(x, training=False), expected, "slim")
    half = jrd.slim(model, {name: range((width + 1) // 2) for name, width in widths.items()})
    if not np.isfinite(numpy(half(x, training=False))).all():
        raise AssertionError("the narrow network's outputs are not finite")
    return f"{half.count_params() / model.count_params():.0%} of parameters"


def exported(small: keras.Model) -> str:
    """The float32 file of the small network, which `export.tflite` compares with it."""
    with tempfile.TemporaryDirectory() as folder:
        report = jrd.export.tflite(small, Path(folder) / "small.tflite", representative_data=images_for(small, 4))
    return f"{report.bytes / 2**20:.1f} MiB"


def row(name: str, make: Callable[[], keras.Model]) -> list[str]:
    """A row of the table."""
    model = make()
    randomise(model)
    cells = [name, str(model.input_shape[1])]
    results: dict[str, object] = {}

    def column(key: str, function: Callable, *needs: str) -> None:
        start = time.time()
        try:
            failed = next((need for need in needs if isinstance(results[need], Exception)), None)
            if failed:
                raise RuntimeError(f"as {failed}")
            found = function(model, *(results[need] for need in needs))
            text, results[key] = found if isinstance(found, tuple) else (found, None)
        except Exception as error:
            text, results[key] = f"**no**: {reason(error)}", error
        cells.append(text)
        print(f"{name}: {key}: {text} ({time.time() - start:.0f} s)", flush=True)

    column("adjoin", adjoined)
    column("remove_shortcuts", without_shortcuts)
    column("JointRD", jointly, "remove_shortcuts")
    column("search", searched)
    column("slim", slimmed)
    column("export", lambda _, small: exported(small), "adjoin")
    return cells


def reason(error: Exception) -> str:
    """The first sentence of an error, in a cell of the table."""
    text = " ".join(str(error).split())
    return re.split(r"(?<=[.;]) ", text)[0][:200].replace("|", "/")


# === The table in the file ===


def read_table(text: str) -> dict[str, list[str]]:
    """The rows of the table by network."""
    inside = text[text.index(START) + len(START) : text.index(END)].strip().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in inside]
    return {cells[0]: cells for cells in rows}


def write_table(rows: dict[str, list[str]]) -> None:
    """Puts rows into the file, in the order of `known()`."""
    text = TABLE.read_text()
    lines = [HEADER, ("---",) * len(HEADER), *(rows[name] for name in known() if name in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    TABLE.write_text(f"{text[: text.index(START)]}{START}\n\n{table}\n\n{text[text.index(END) :]}")


def main() -> None:
    """Measures the rows that are asked for and writes each into the table as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="rows of the table, such as ResNet50 or hub.VGG; by default all")
    names = parser.parse_args().networks or [n for n in known() if has_hub() or not n.startswith("hub.")]
    for name in names:
        if name not in known():
            parser.error(f"Expected networks from {', '.join(known())}. Received: {name}")
    for name in names:
        measured = row(name, known()[name])
        write_table({**read_table(TABLE.read_text()), name: measured})
        keras.utils.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
