"""What an adjoined training step costs, over a standard step, the masked form of Eqn 1, and two networks apart.

    python benchmarks/adjoined_cost.py            ResNet-20 and -56 at 32, ResNet-50 and MobileNetV2 at 96 pixels
    python benchmarks/adjoined_cost.py --networks ResNet50 --alphas 4 --rounds 40
    python benchmarks/adjoined_cost.py --networks resnet20 --jit
    python benchmarks/adjoined_cost.py --networks resnet20 --dtype mixed_bfloat16

Four forms of one network take turns in one process, so that whatever else the machine does hits all of them:

    standard   the full network alone
    adjoined   full and small on shared weights, as `tfjointrd.adjoin` trains them: trunk once, sliced kernels
    masked     full and small as Eqn 1 is written: two passes at full width, every narrowed kernel times its mask
    separate   full and small with weights of their own, the small one taught by the full one

All use the same batch normalisation, optimizer and graph mode. Printed, for each network and alpha: the median
milliseconds a step; the median over the rounds of the ratios within a round, beside the ratio of the
multiply-accumulates; and the largest memory of a process that takes three steps of one form, above one that has only
imported everything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

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

FORMS = ("standard", "adjoined", "masked", "separate")
NETWORKS = ("resnet20", "resnet56", "ResNet50", "MobileNetV2")


class MaskedConv2D(keras.layers.Conv2D):
    """Eqn 1 to the letter: z_1 = conv(x_1, W), z_2 = conv(x_2, W * M)."""

    def __init__(self, *args, kept: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # Keras' own asks for a single tensor
        self.mask = np.where(np.arange(self.filters) < kept, 1.0, 0.0).astype("float32")

    def call(self, inputs):
        """Returns both outputs at full width."""
        kernels = (self.kernel, self.kernel * keras.ops.cast(self.mask, self.compute_dtype))
        outputs = [self.convolution_op(x, kernel) for x, kernel in zip(inputs, kernels, strict=True)]
        outputs = [x + self.bias for x in outputs] if self.use_bias else outputs
        return [self.activation(x) for x in outputs]

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
    graph, pairs, inputs = read_graph(model), {}, None
    for call in graph.calls:
        spec = graph.layers[call.layer]
        if spec.cls is keras.layers.InputLayer:
            inputs = spec.make().output
            pairs[call.output] = (inputs, inputs)
        elif spec.cls is keras.layers.Conv2D:
            layer = MaskedConv2D(**spec.config, kept=small.get_layer(call.layer).filters)
            pairs[call.output] = layer(list(pairs[call.inputs[0]]))
        else:
            layers = [spec.make()] * 2
            if isinstance(layers[0], keras.layers.BatchNormalization):  # each path has its own
                layers[1] = spec.with_config(name=f"{call.layer}_2").make()
            pairs[call.output] = [
                layer(*substitute(call.args, lambda ref, path=path: pairs[ref][path]), **call.kwargs)
                for path, layer in enumerate(layers)
            ]
    full, narrow = pairs[graph.single_output()]
    return keras.Model(inputs, {"full": full, "small": narrow})


def separate_form(model: keras.Model, small: keras.Model) -> keras.Model:
    """Both networks with weights of their own."""
    return keras.Model(model.input, {"full": model.output, "small": small(model.input)})


def build(name: str) -> keras.Model:
    """A CIFAR network of `tfjointrd.models`, or one of `keras.applications` at 96 pixels."""
    if hasattr(jrd.models, name):
        return getattr(jrd.models, name)()
    options = {"weights": None, "classes": 10, "input_shape": (96, 96, 3), "classifier_activation": None}
    return getattr(keras.applications, name)(**options)


def make_form(form: str, model: keras.Model, pair: jrd.Adjoined) -> keras.Model:
    """One of `FORMS`."""
    fused = with_fused_batch_normalization(model)
    if form == "masked":
        return masked_form(fused, pair.small())
    if form == "separate":
        return separate_form(fused, with_fused_batch_normalization(pair.small()))
    return pair.network if form == "adjoined" else fused


def make_step(network: keras.Model, batch_size: int, jit: bool):
    """A training step: CE of the full network, and KL(full, small) where there are two."""
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (batch_size, *network.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, batch_size))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(outputs):
        if not isinstance(outputs, dict):
            return cross_entropy(labels, tf.cast(outputs, tf.float32))
        full, small = (tf.cast(outputs[path], tf.float32) for path in ("full", "small"))
        return cross_entropy(labels, full) + divergence(full, small, probabilities=False)

    return sgd_step(network, loss, images, jit)


def predicted(model: keras.Model, pair: jrd.Adjoined) -> dict[str, float]:
    """Multiply-accumulates of a step of each form, over those of a standard step."""
    full, narrow = jrd.report.profile(model), jrd.report.profile(pair.small())
    own = {layer.name for layer in pair.network.layers if isinstance(layer, AdjoinedLayer)}
    apart = sum(row.macs or 0 for row in narrow.layers if row.name in own)
    return {"adjoined": 1 + apart / full.macs, "masked": 2.0, "separate": 1 + narrow.macs / full.macs}


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory(name: str, alpha: int, form: str, batch_size: int, dtype: str) -> float:
    """MiB that a process of its own needs for three steps, above one that does nothing."""
    sizes = []
    for steps in ("0", "3"):
        command = [
            sys.executable,
            __file__,
            "--networks",
            name,
            "--alphas",
            str(alpha),
            "--batch-size",
            str(batch_size),
        ]
        command += ["--dtype", dtype, "--only", form, "--steps", steps]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(float(result.stdout.split()[-1]))
    return sizes[1] - sizes[0]


def compare(name: str, alpha: int, options: argparse.Namespace) -> None:
    """Prints the lines of one network and alpha."""
    model = build(name)
    pair = jrd.adjoin(model, alpha)
    batch_size = options.batch_size or (128 if model.input_shape[1] == 32 else 32)
    steps = {form: make_step(make_form(form, model, pair), batch_size, options.jit) for form in FORMS}
    times = Times(steps, options.rounds, repeats=1)
    by_macs = {"standard": 1.0, **predicted(model, pair)}
    print(f"\n{name} at {model.input_shape[1]} pixels, alpha {alpha}, batch {batch_size}, {options.rounds} rounds")
    print(f"{'':10s}{'ms':>9s}{'ratio':>8s}{'by MACs':>9s}{'ratio / MACs':>14s}{'MiB':>7s}")
    for form in FORMS:
        ratio = times.ratio(form, "standard")
        size = f"{memory(name, alpha, form, batch_size, options.dtype):7.0f}" if options.memory else ""
        print(
            f"{form:10s}{times.milliseconds(form):9.1f}{ratio:8.3f}{by_macs[form]:9.3f}"
            f"{ratio / by_macs[form]:14.3f}{size}",
            flush=True,
        )
    print(f"adjoined / masked {times.ratio('adjoined', 'masked'):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of tfjointrd.models or keras.applications")
    parser.add_argument("--alphas", type=int, nargs="+", default=(2, 4))
    parser.add_argument("--batch-size", type=int, help="128 at 32 pixels, else 32")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of one step of each form")
    parser.add_argument("--jit", action="store_true", help="compile steps with XLA")
    parser.add_argument("--dtype", default="float32", help="e.g. mixed_bfloat16")
    parser.add_argument("--memory", action="store_true", help="measure memory too, in processes of their own")
    parser.add_argument("--only", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    keras.config.set_dtype_policy(options.dtype)
    if options.only:
        if options.steps:
            model = build(options.networks[0])
            network = make_form(options.only, model, jrd.adjoin(model, options.alphas[0]))
            step = make_step(network, options.batch_size, options.jit)
            for _ in range(options.steps):
                step()
        print(peak_memory())
        return
    print(f"{len(os.sched_getaffinity(0))} cores, {options.dtype}{', XLA' if options.jit else ''}")
    for name in options.networks:
        for alpha in options.alphas:
            compare(name, alpha, options)


if __name__ == "__main__":
    main()
