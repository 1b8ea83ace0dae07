"""Blocks, networks and losses against float64 numpy with PyTorch's padding, on the same weights."""

import by_hand
import keras
import numpy as np
import pytest
from keras import layers as L

from tfjointrd import JointRD, adjoin, dirac, fold, models, remove_shortcuts
from tfjointrd.models import blocks
from tfjointrd.training import Constant, CosineFade
from tfjointrd.training.losses import divergence

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has no float64 unless told so"),
    pytest.mark.usefixtures("float64"),
]

SIZES = pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5)])
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def channels_first(x):
    return np.moveaxis(numpy(x), -1, 1)


def values(size, channels=3, count=3, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *size, channels))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def two_stages(size, block, shortcut, widths=(4, 6)):
    """Two blocks, of stride 1 and 2; channels change in the second, in bottlenecks in both."""
    image = keras.Input((*size, 4))
    return keras.Model(image, blocks.stages(image, (1, 1), widths, block, shortcut))


BLOCKS = {
    "basic, projection": ("basic", "projection"),
    "basic, shortcut A": ("basic", "zero_padding"),
    "basic, pooled projection": ("basic", "pooled_projection"),
    "bottleneck, projection": ("bottleneck", "projection"),
    "bottleneck, pooled projection": ("bottleneck", "pooled_projection"),
}


@SIZES
@pytest.mark.parametrize(("block", "shortcut"), BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_blocks(block, shortcut, size, training):
    network = two_stages(size, getattr(blocks, f"{block}_block"), getattr(blocks, shortcut))
    weights, x = by_hand.draw(network), values(size, 4)
    by_hand.load(network, weights)
    parts = getattr(by_hand, block), getattr(by_hand, shortcut)
    _, ends = by_hand.stages(weights, channels_first(x), (1, 1), *parts, train=training)
    close(channels_first(network(x, training=training)), ends[-1])


@SIZES
@pytest.mark.parametrize("family", ["resnet", "xresnet"])
def test_stems(family, size):
    network = models.imagenet_resnet(18, 2, (*size, 3)) if family == "resnet" else models.xresnet(18, 2, (*size, 3))
    network = keras.Model(network.get_layer("normalization").output, network.get_layer("stem_pool").output)
    weights, x = by_hand.draw(network), values(size)
    by_hand.load(network, weights)
    z = channels_first(x)
    for index, stride in [("", 2)] if family == "resnet" else [(1, 2), (2, 1), (3, 1)]:
        z = by_hand.relu(by_hand.unit(weights, z, "stem", index, stride))
    close(channels_first(network(x)), by_hand.pool_maximum(z))


@SIZES
@pytest.mark.parametrize("projections", [False, "downsampling"], ids=["plain", "projections"])
@pytest.mark.parametrize("with_identity", [False, True], ids=["ordinary", "dirac"])
def test_plain_blocks(with_identity, projections, size):
    network = remove_shortcuts(two_stages(size, blocks.basic_block, blocks.projection), projections)
    network = dirac(network, layers=["*"]) if with_identity else network
    weights, x = by_hand.draw(network), values(size, 4)
    by_hand.load(network, weights)
    shortcut = by_hand.projection if projections else None
    own = by_hand.dirac_kernels(weights)
    _, ends = by_hand.stages(own, channels_first(x), (1, 1), shortcut=shortcut, identity=False)
    close(channels_first(network(x)), ends[-1])
    close(channels_first(fold(network)(x)), ends[-1])


# === Whole networks ===


def torch_name(layer):
    """The name that the layer has in PyTorch's model zoo."""
    if not layer.startswith("stage"):
        return {"stem_conv": "conv1", "stem_bn": "bn1", "logits": "fc"}[layer]
    stage, block, *part = layer.split("_")
    part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get("_".join(part), part[0])
    return f"layer{stage.removeprefix('stage')}.{int(block.removeprefix('block')) - 1}.{part}"


@pytest.mark.parametrize(("depth", "block"), [(18, by_hand.basic), (50, by_hand.bottleneck)])
def test_weights_in_pytorchs_layout_carry_over(depth, block):
    """A dict of tensors by PyTorch's names, loaded by name, gives PyTorch's logits."""
    network = models.imagenet_resnet(depth, 5, (32, 32, 3), mean=MEAN, std=STD)
    stored = {}
    for layer, own in by_hand.draw(network).items():
        keys = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
        own = {keys.get(key, key): value for key, value in own.items()} if isinstance(own, dict) else {"weight": own}
        stored |= {f"{torch_name(layer)}.{key}": value for key, value in own.items()}
    assert stored["layer2.0.downsample.0.weight"].shape[2:] == (1, 1) and stored["fc.weight"].shape[0] == 5
    weights = {}
    for layer in network.layers:
        if isinstance(layer, L.BatchNormalization):
            keys = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
            weights[layer.name] = {key: stored[f"{torch_name(layer.name)}.{own}"] for key, own in keys.items()}
        elif isinstance(layer, L.Dense):
            weights[layer.name] = {key: stored[f"{torch_name(layer.name)}.{key}"] for key in ("weight", "bias")}
        elif isinstance(layer, L.Conv2D):
            weights[layer.name] = stored[f"{torch_name(layer.name)}.weight"]
    by_hand.load(network, weights)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3)).astype("float64")
    x = by_hand.relu(by_hand.unit(weights, channels_first((pixels - MEAN) / STD), "stem", "", 2))
    counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    _, ends = by_hand.stages(weights, by_hand.pool_maximum(x), counts, block)
    close(numpy(network(pixels)), by_hand.classify(weights, ends[-1]))


def small_resnet(seed):
    """A CIFAR ResNet of three blocks for 8x8 pixels, and its weights."""
    network = models.cifar_resnet(8, 5, (8, 8, 3), mean=MEAN, std=STD)
    weights = by_hand.draw(network, seed)
    by_hand.load(network, weights)
    return network, weights


def pixels_and_labels():
    rng = np.random.default_rng(4)
    return rng.uniform(0, 255, (4, 8, 8, 3)), rng.integers(0, 5, 4)


def stem(weights, pixels, train=False):
    return by_hand.relu(by_hand.unit(weights, channels_first((pixels - MEAN) / STD), "stem", train=train))


# === Adjoined Networks, Eqn 1 to 3 ===


def masked(weights, small):
    """Eqn 1: from stage 2 on, the last half of each kernel's filters is zero, and stays it behind normalisation."""
    found = dict(weights)
    for name, own in weights.items():
        if not name.startswith(("stage2", "stage3")):
            continue
        if isinstance(own, np.ndarray):
            found[name] = own * (np.arange(len(own)) < len(own) // 2)[:, None, None, None]
        else:
            half = len(own["gamma"]) // 2
            found[name] = {key: np.r_[small[name][key], np.full(half, key == "variance", float)] for key in own}
    return found


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, None])
def test_adjoined_networks(epsilon):
    network, weights = small_resnet(5)
    pair = adjoin(network, alpha=2, round_to=1, epsilon=epsilon)
    rng, small = np.random.default_rng(6), {}
    for layer in pair.network.layers:
        if "small" in getattr(layer, "own", {}) and isinstance(weights.get(layer.name), dict) and "bn" in layer.name:
            half = len(weights[layer.name]["gamma"]) // 2
            small[layer.name] = {
                "gamma": rng.uniform(0.5, 1.5, half),
                "beta": rng.normal(size=half),
                "mean": rng.normal(size=half),
                "variance": rng.uniform(0.5, 1.5, half),
            }
            by_hand.load_layer(layer.own["small"], small[layer.name])
    assert len(small) == 6
    pixels, labels = pixels_and_labels()
    logits = []
    for own in (weights, masked(weights, small)):
        logits.append(by_hand.classify(own, by_hand.stages(own, stem(own, pixels), (1, 1, 1))[1][-1]))
    outputs = pair(pixels, training=False)
    close(numpy(outputs["full"]), logits[0])
    close(numpy(outputs["small"]), logits[1])
    close(numpy(pair.small()(pixels)), logits[1])
    p, q = (np.exp(by_hand.log_softmax(x)) for x in logits)
    term = epsilon or 0.0
    kl = (p * np.log((p + term) / (q + term))).sum(1).mean()
    close(numpy(divergence(outputs["full"], outputs["small"], False, epsilon)), kl)
    pair.compile("sgd")
    pair.total_steps.assign(100)
    for step, weight in ((0, 0.0), (30, 0.36), (50, 1.0), (80, 1.0)):
        pair.step.assign(step)
        loss = pair.compute_loss(pixels, labels, outputs, training=False)
        close(numpy(loss), by_hand.cross_entropy(logits[0], labels) + weight * kl)


# === Residual Distillation ===


@pytest.mark.parametrize(
    ("epoch", "scale", "projections"),
    [(0, "sum", False), (20, "sum", "downsampling"), (20, "mean", False), (60, "sum", False), (150, "mean", False)],
)
def test_the_loss_of_residual_distillation(epoch, scale, projections):
    """CE + w D of the student, and m(t) times that of each tail, of 200 epochs; see the paper's Figure 1."""
    w, floor = 0.01, 0.5
    teacher, teacher_weights = small_resnet(7)
    student = dirac(remove_shortcuts(teacher, projections))
    student_weights = by_hand.draw(student, 8)
    by_hand.load(student, student_weights)
    joint = JointRD(
        student, teacher, tail_weight=CosineFade(floor, 0.3), feature_weight=w, path_scale=scale, strict=False
    )
    joint.compile("sgd")
    connectors = {}
    for seed, (path, connector) in enumerate(joint.connectors.items()):
        connectors[path] = by_hand.draw(connector, 10 + seed)
        by_hand.load(connector, connectors[path])
    pixels, labels = pixels_and_labels()

    own = by_hand.dirac_kernels(student_weights)
    x = stem(own, pixels, train=True)
    shortcut = by_hand.projection if projections else None
    student_map, ends = by_hand.stages(own, x, (1, 1, 1), shortcut=shortcut, identity=False, train=True)
    target, _ = by_hand.stages(teacher_weights, stem(teacher_weights, pixels), (1, 1, 1))
    maps, logits = {"student": student_map}, {"student": by_hand.classify(own, ends[-1])}
    for stage in (1, 2):
        path = f"stage{stage}_block1_relu"
        maps[path], last = by_hand.stages(teacher_weights, ends[stage - 1], (1, 1, 1), first=stage + 1)
        logits[path] = by_hand.classify(teacher_weights, last[-1])
    margin = by_hand.margins(teacher_weights["stage3_block1_bn2"])
    losses = {}
    for path in maps:
        found = connectors[path]
        feature = by_hand.unit(found, maps[path], f"{path}_connector", train=True)
        distance = by_hand.feature_distance(feature, target, margin)
        losses[path] = by_hand.cross_entropy(logits[path], labels) + w * distance
    m = floor + (1 - floor) * (1 + np.cos(np.pi * epoch / 60)) / 2 if epoch <= 60 else floor
    expected = losses["student"] + m * (losses["stage1_block1_relu"] + losses["stage2_block1_relu"])

    joint.total_steps.assign(200)
    joint.step.assign(epoch)
    outputs = joint(pixels, training=True)
    for path in logits:
        close(numpy(outputs[path]), logits[path])
    loss = joint.compute_loss(pixels, labels, outputs, training=False)
    close(numpy(loss), expected / (3 if scale == "mean" else 1))


def test_tails_of_a_constant_weight():
    teacher, _ = small_resnet(7)
    joint = JointRD(remove_shortcuts(teacher), teacher, tail_weight=Constant(0.25))
    joint.compile("sgd")
    pixels, labels = pixels_and_labels()
    outputs = joint(pixels, training=True)
    parts = [by_hand.cross_entropy(numpy(outputs[path]), labels) for path in joint.paths()]
    close(numpy(joint.compute_loss(pixels, labels, outputs)), parts[0] + 0.25 * (parts[1] + parts[2]))
