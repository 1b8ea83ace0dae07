"""What a step of a search costs, over a standard step and over Eqn 5 with one masked convolution for each candidate.

    python benchmarks/dan_cost.py                     ResNet-20 at 32 pixels, batch 128, candidates 1, 2 and 4
    python benchmarks/dan_cost.py --networks resnet56 --alphas 1 2 4 8

Three forms of one network take turns in one process:

    standard   the full network alone
    dan        as `tfjointrd.search` trains it: one convolution a layer, channels scaled by gates
    masked     the small path as Eqn 5 is written, sum_j g_j conv(x, W * M_j); the trunk is computed once here, too

Printed: the median milliseconds a step, and the median over the rounds of the ratios within a round, beside the ratio
of the multiply-accumulates.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # see README.md: no network here is affected

import keras
import numpy as np
import tensorflow as tf
from interleaved import Times, sgd_step

import tfjointrd as jrd
from tfjointrd.layers.adjoined import AdjoinedLayer
from tfjointrd.surgery.graph import substitute
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.training.losses import divergence

FORMS = ("standard", "dan", "masked")


class MaskedSum(keras.layers.Conv2D):
    """Eqn 5 to the letter: [conv(x_1, W), sum_j g_j conv(x_2, W * M_j)]."""

    def __init__(self, *args, alphas, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # Keras' own asks for a single tensor
        self.gumbel = jrd.layers.GumbelSoftmax(seed=0)
        self.masks = [(np.arange(self.filters) < self.filters // alpha).astype("float32") for alpha in alphas]

    def build(self, input_shape):
        """Builds the one kernel, and the logits."""
        super().build(input_shape[0])
        self.input_spec = None
        self.eta = self.add_weight(name="eta", shape=(len(self.masks),), initializer="zeros")

    def call(self, inputs, training=None):
        """Returns both outputs at full width."""
        weights = self.gumbel(self.eta.value, temperature=5.0, training=training)
        candidates = [
            weights[j] * self.convolution_op(inputs[1], self.kernel * mask) for j, mask in enumerate(self.masks)
        ]
        return [self.convolution_op(inputs[0], self.kernel), sum(candidates)]

    def compute_output_spec(self, inputs, training=None):
        """The shapes of both outputs."""
        shapes = [keras.layers.Conv2D.compute_output_shape(self, x.shape) for x in inputs]
        return [keras.KerasTensor(shape, self.compute_dtype) for shape in shapes]


def masked_form(model: keras.Model, dan: jrd.DAN) -> keras.Model:
    """The full network, and the small path at full width with a masked convolution for each candidate."""
    graph, pairs, inputs = read_graph(model), {}, None
    gated = {layer for group in dan.groups for layer in group.layers}
    for call in graph.calls:
        spec = graph.layers[call.layer]
        if spec.cls is keras.layers.InputLayer:
            inputs = spec.make().output
            pairs[call.output] = (inputs, inputs)
        elif call.layer in gated:
            layer = MaskedSum(**spec.config, alphas=dan.alphas)
            pairs[call.output] = tuple(layer(list(pairs[call.inputs[0]])))
        else:
            layers = [spec.make()] * 2
            trunk = all(pairs[ref][0] is pairs[ref][1] for ref in call.inputs)
            if isinstance(layers[0], keras.layers.BatchNormalization) and not trunk:
                layers[1] = spec.with_config(name=f"{call.layer}_2").make()
            results = [
                layer(*substitute(call.args, lambda ref, path=path: pairs[ref][path]), **call.kwargs)
                for path, layer in list(enumerate(layers))[: 1 if trunk else 2]
            ]
            pairs[call.output] = (results[0], results[-1])
    full, small = pairs[graph.single_output()]
    return keras.Model(inputs, {"full": full, "small": small})


def compare(name: str, options: argparse.Namespace) -> None:
    """Prints the lines of one network."""
    model = getattr(jrd.models, name)()
    dan = jrd.search(model, options.alphas, seed=0)
    dan.total_steps.assign(1000.0)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (options.batch_size, *model.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, options.batch_size))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(outputs):
        if not isinstance(outputs, dict):
            return cross_entropy(labels, outputs)
        return cross_entropy(labels, outputs["full"]) + divergence(outputs["full"], outputs["small"], False)

    def search_loss(outputs):
        return loss(outputs) + dan.costs["macs"].share(dan.gates.weights_of_candidates(training=True))

    fused = with_fused_batch_normalization(model)
    steps = {
        "standard": sgd_step(fused, loss, images, options.jit),
        "dan": sgd_step(dan, search_loss, images, options.jit),
        "masked": sgd_step(masked_form(fused, dan), loss, images, options.jit),
    }
    gated = {layer for group in dan.groups for layer in group.layers}
    own = {layer.name for layer in dan.network.layers if isinstance(layer, AdjoinedLayer)}
    profile = jrd.report.profile(model)
    once, each = (sum(row.macs or 0 for row in profile.layers if row.name in names) for names in (own, gated))
    by_macs = {"standard": 1.0, "dan": 1 + once / profile.macs, "masked": 1 + len(options.alphas) * each / profile.macs}
    times = Times(steps, options.rounds, repeats=1)
    print(f"\n{name}, alphas {options.alphas}, batch {options.batch_size}, {options.rounds} rounds")
    print(f"{'':10s}{'ms':>9s}{'ratio':>8s}{'by MACs':>9s}")
    for form in FORMS:
        print(f"{form:10s}{times.milliseconds(form):9.1f}{times.ratio(form, 'standard'):8.3f}{by_macs[form]:9.3f}")
    print(f"dan / masked {times.ratio('dan', 'masked'):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=("resnet20",), help="of tfjointrd.models")
    parser.add_argument("--alphas", type=int, nargs="+", default=(1, 2, 4))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of one step of each form")
    parser.add_argument("--jit", action="store_true", help="compile steps with XLA")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores{', XLA' if options.jit else ''}")
    for name in options.networks:
        compare(name, options)


if __name__ == "__main__":
    main()
