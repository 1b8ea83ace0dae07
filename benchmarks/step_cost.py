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
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

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


def training_step(network: keras.Model, images, labels):
    """A function that takes one step of SGD on CE, or CE + KL where there are two outputs."""
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    optimizer.build(network.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = [variable.value for variable in network.trainable_variables]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            if isinstance(outputs, dict):
                p, q = (tf.nn.softmax(outputs[path]) for path in ("full", "small"))
                loss = cross_entropy(labels, outputs["full"]) + kullback_leibler(p, q)
            else:
                loss = cross_entropy(labels, outputs)
        optimizer.apply(tape.gradient(loss, variables), network.trainable_variables)
        return loss

    return step


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
    steps = {name: training_step(network, images, labels) for name, network in forms.items()}
    for step in steps.values():
        for _ in range(3):
            step()

    seconds = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(2):
                loss = step()
            float(loss)
            seconds[name].append((time.perf_counter() - began) / 2)

    def ratio(over: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds["adjoined"], seconds[over], strict=True))

    cores = len(os.sched_getaffinity(0))
    print(
        f"{options.network}, alpha {options.alpha}, batch {options.batch_size}, {cores} cores, {options.rounds} rounds"
    )
    for name, values in seconds.items():
        print(f"{name:10s}{1000 * statistics.median(values):8.1f} ms a step")
    full, narrow = jrd.report.profile(model), jrd.report.profile(small)
    shared = {layer.name for layer in pair.network.layers if type(layer) is keras.layers.Conv2D}  # computed once
    own = sum(layer.macs or 0 for layer in narrow.layers if layer.name not in shared)
    both = full.macs + own
    print(f"adjoined / standard  {ratio('standard'):.3f}   by multiply-accumulates {both / full.macs:.3f}")
    print(f"adjoined / masked    {ratio('masked'):.3f}   by multiply-accumulates {both / (2 * full.macs):.3f}")


if __name__ == "__main__":
    main()
