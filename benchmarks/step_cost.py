"""What an adjoined training step costs, over a standard step and over the masked form of Eqn 1.

    python benchmarks/step_cost.py                       ResNet-20, alpha 2, batch 128, CIFAR size
    python benchmarks/step_cost.py --network resnet56 --alpha 4 --rounds 40

Three forms of one network take turns in one process, so that whatever else the machine does hits all of them:

    standard   the full network alone
    adjoined   full and small on shared weights, as `tfjointrd.adjoin` trains them: trunk once, sliced kernels
    masked     full and small as Eqn 1 is written: two passes at full width, every narrowed kernel times its mask

All use the same batch normalisation, optimizer and graph mode. Printed: the median milliseconds a step, the median
over the rounds of the ratios within a round, and the ratio of the multiply-accumulates.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from interleaved import Times, sgd_step

import tfjointrd as jrd
from tfjointrd.layers import FusedBatchNormalization
from tfjointrd.surgery import Graph
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.training import kullback_leibler


class MaskedConv2D(keras.layers.Conv2D):
    """Eqn 1 to the letter: z_1 = conv(x_1, W), z_2 = conv(x_2, W * M)."""

    def __init__(self, *args, kept: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # Keras' own asks for a single tensor
        self.mask = np.where(np.arange(self.filters) < kept, 1.0, 0.0).astype("float32")

    def call(self, inputs):
        """Returns both outputs at full width."""
        first, second = inputs
        return [self.convolution_op(first, self.kernel), self.convolution_op(second, self.kernel * self.mask)]

    def build(self, input_shape):
        """Builds the one kernel."""
        super().build(input_shape[0])
        self.input_spec = None

    def compute_output_shape(self, input_shape):
        """The shapes of both outputs, or of one where Keras asks for it."""
        if isinstance(input_shape[0], (list, tuple)):
            return [super(MaskedConv2D, self).compute_output_shape(shape) for shape in input_shape]
        return super().compute_output_shape(input_shape)


def masked_form(model: keras.Model, small: keras.Model) -> keras.Model:
    """Both networks at full width, the kernels of the second one masked to the filters that `small` has."""
    graph, pairs, inputs = Graph.of(model), {}, None
    for call in graph.calls:
        spec = graph.layers[call.layer]
        if spec.cls is keras.layers.InputLayer:
            inputs = spec.make().output
            pairs[call.output] = (inputs, inputs)
            continue
        args = [pairs[ref] for ref in call.inputs]
        if spec.cls is keras.layers.Conv2D:
            layer = MaskedConv2D(**spec.config, kept=small.get_layer(call.layer).filters)
            pairs[call.output] = tuple(layer(list(args[0])))
            continue
        layer = spec.make()
        again = (
            type(layer).from_config({**spec.config, "name": f"{call.layer}_2"}) if is_normalization(layer) else layer
        )
        paths = [[pair[i] for pair in args] for i in (0, 1)]
        pairs[call.output] = tuple(
            one(path if len(path) > 1 else path[0]) for one, path in zip((layer, again), paths, strict=True)
        )
    full, narrow = pairs[graph.single_output()]
    return keras.Model(inputs, {"full": full, "small": narrow})


def is_normalization(layer) -> bool:
    """Whether each path has one of its own."""
    return isinstance(layer, (keras.layers.BatchNormalization, FusedBatchNormalization))


def pair_loss(outputs, labels):
    """CE of the full network, and KL(full, small) where there are two."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if not isinstance(outputs, dict):
        return cross_entropy(labels, outputs)
    p, q = (tf.nn.softmax(outputs[path]) for path in ("full", "small"))
    return cross_entropy(labels, outputs["full"]) + kullback_leibler(p, q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="a CIFAR network of tfjointrd.models")
    parser.add_argument("--alpha", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of two steps of each form")
    options = parser.parse_args()

    model = getattr(jrd.models, options.network)()
    pair = jrd.adjoin(model, options.alpha)
    small = pair.small()
    fused = with_fused_batch_normalization(model)
    forms = {"standard": fused, "adjoined": pair.network, "masked": masked_form(fused, small)}
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (options.batch_size, *model.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, options.batch_size))
    steps = {
        name: sgd_step(network, lambda outputs: pair_loss(outputs, labels), images) for name, network in forms.items()
    }
    times = Times(steps, options.rounds)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{options.network}, alpha {options.alpha}, batch {options.batch_size}, {cores} cores, {options.rounds} rounds"
    )
    for name in steps:
        print(f"{name:10s}{times.milliseconds(name):8.1f} ms a step")
    full, narrow = jrd.report.profile(model), jrd.report.profile(small)
    shared = {layer.name for layer in pair.network.layers if type(layer) is keras.layers.Conv2D}  # computed once
    own = sum(layer.macs or 0 for layer in narrow.layers if layer.name not in shared)
    both = full.macs + own
    for form, macs in (("standard", full.macs), ("masked", 2 * full.macs)):
        ratio = times.ratio("adjoined", form)
        print(f"adjoined / {form:8s}  {ratio:.3f}   by multiply-accumulates {both / macs:.3f}")


if __name__ == "__main__":
    main()
