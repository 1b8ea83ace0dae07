"""What a step of `tfjointrd.Pruning` costs over a standard step, and what the drops at the start of epochs add.

    python benchmarks/pruning_cost.py                       ResNet-20 at 32 pixels, batch 128
    python benchmarks/pruning_cost.py --networks resnet56 --rounds 10

Forms of one network take turns in one process, all on the same batch normalisation, optimizer and graph mode:

    standard   the network alone
    none       `Pruning` without a regulariser, half of the channels dropped
    gamma      with the absolute scales of batch normalisations
    group      with the norms of tied channels

Printed: the median milliseconds a step, and the median over the rounds of the ratios within a round, by the clock and
by processor time, which other work on the machine changes less; then seconds of a drop (scores, the narrow network that
they are of, masks), ranked by weights (`l2`) and by the loss (`taylor`, on `--images` images), and what part of an
epoch of `--steps` standard steps that is.

On two cores, beside other work (`--rounds 40`), of processor time: none 0.988, gamma 0.984, group 1.013. A drop by l2
took 1.4 s and by taylor 16.6 s, 0.005 and 0.063 of an epoch.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # see README.md: no network here is affected

import numpy as np
import tensorflow as tf
from interleaved import Times, sgd_step

import tfjointrd as jrd
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.surgery.tasks import default_loss

FORMS = {"none": None, "gamma": "gamma", "group": "group"}


def compare(name: str, options: argparse.Namespace) -> None:
    """Prints the lines of one network."""
    network = with_fused_batch_normalization(getattr(jrd.models, name)())
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (options.images, *network.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, options.images)
    batch = tf.constant(images[: options.batch_size]), tf.constant(labels[: options.batch_size])
    network(batch[0], training=True)  # statistics of batch normalisation that fit
    loss = default_loss(network)
    steps = {"standard": sgd_step(network, lambda outputs: loss(batch[1], outputs), batch[0], options.jit)}
    for form, regularizer in FORMS.items():
        model = jrd.Pruning(network, target_macs=0.5, regularizer=regularizer, data=(images, labels))
        model.compile("sgd")
        model.total_steps.assign(1e9)
        model.drop()
        steps[form] = sgd_step(
            model, lambda outputs, model=model: model.compute_loss(None, batch[1], outputs), batch[0], options.jit
        )
    times = Times(steps, options.rounds, repeats=1)
    print(f"\n{name}, batch {options.batch_size}, {options.rounds} rounds")
    print(f"{'':10s}{'ms':>8s}{'ratio':>8s}{'of processor time':>20s}")
    for form in steps:
        ratios = times.ratio(form, "standard"), times.processor_ratio(form, "standard")
        print(f"{form:10s}{times.milliseconds(form):8.1f}{ratios[0]:8.3f}{ratios[1]:20.3f}")
    for importance in ("l2", "taylor"):
        model.importance = importance
        seconds = []
        for amount in (0.3, 0.6, 1.0):
            model.alive.assign(np.ones(model.alive.shape))
            began = time.perf_counter()
            model.drop(amount)
            seconds.append(time.perf_counter() - began)
        drop = np.median(seconds)
        epoch = options.steps * times.milliseconds("standard") / 1000
        print(f"a drop by {importance:7s}{drop:6.2f} s, {drop / epoch:.3f} of an epoch of {options.steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=("resnet20",), help="of tfjointrd.models")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of one step of each form")
    parser.add_argument("--images", type=int, default=500, help="that Taylor's criterion looks at")
    parser.add_argument("--steps", type=int, default=390, help="of an epoch; CIFAR-10 has 390 of 128 images")
    parser.add_argument("--jit", action="store_true", help="compile steps with XLA")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores{', XLA' if options.jit else ''}")
    for name in options.networks:
        compare(name, options)


if __name__ == "__main__":
    main()
