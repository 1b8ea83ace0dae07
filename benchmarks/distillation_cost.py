"""What a step costs by each way to distil, over one by Hinton's: a narrow network is taught by the full one.

    python benchmarks/distillation_cost.py                   ResNet-20, alpha 2, batch 128, CIFAR size
    python benchmarks/distillation_cost.py --rounds 10 --methods rkd review_kd

All methods take turns in one process. `both` is KD and RKD in one training. In `dml` the full network is trained too.
Printed: the median milliseconds a step; the medians over the rounds of the ratios to KD's step within a round, by
processor time, which other work on the machine changes less, and by the clock; and the ratio of the arithmetic:
multiply-accumulates of convolutions and matrix products, forward and backward. What methods train of their own
(adapters) is included.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # see README.md: no network here is affected

import keras
import numpy as np
import tensorflow as tf
from interleaved import Times, multiply_accumulates, sgd_step

import tfjointrd as jrd
from tfjointrd.surgery.swap import with_fused_batch_normalization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="a CIFAR network of tfjointrd.models")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6, help="rounds of one step of each method")
    parser.add_argument("--methods", nargs="+", default=list(jrd.distillers.METHODS), help="names of methods")
    options = parser.parse_args()

    teacher = getattr(jrd.models, options.network)()
    small = jrd.adjoin(teacher, alpha=2, round_to=1).small()
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (options.batch_size, *teacher.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, options.batch_size))
    teacher(images, training=True)  # statistics of batch normalisation that fit

    def student() -> keras.Model:
        return with_fused_batch_normalization(keras.models.clone_model(small))

    ways = {"kd": ["kd"], **{name: [name] for name in options.methods}, "both": ["kd", "rkd"]}
    models = {name: jrd.Distillation(student(), teacher, methods=methods) for name, methods in ways.items()}
    models["dml"] = jrd.Cohort([student(), with_fused_batch_normalization(keras.models.clone_model(teacher))], "dml")
    steps = {}
    for name, model in models.items():
        model.compile("sgd")
        model.total_steps.assign(1e9)
        steps[name] = sgd_step(
            model, lambda outputs, model=model: model.compute_loss(images, labels, outputs, training=True), images
        )
    times = Times(steps, options.rounds, repeats=1)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.network}, alpha 2, batch {options.batch_size}, {cores} cores, {options.rounds} rounds")
    print(f"{'':12s}{'ms a step':>10s}{'processor time / kd':>22s}{'clock / kd':>14s}{'arithmetic / kd':>18s}")
    arithmetic = {name: multiply_accumulates(step) for name, step in steps.items()}
    for name in steps:
        ratios = f"{times.processor_ratio(name, 'kd'):22.2f}{times.ratio(name, 'kd'):14.2f}"
        more = arithmetic[name] / arithmetic["kd"]
        print(f"{name:12s}{times.milliseconds(name):10.1f}{ratios}{more:18.2f}")


if __name__ == "__main__":
    main()
