"""What a step of JointRD costs, over a standard step and over one call of the teacher for each path; and the recorder.

    python benchmarks/jointrd_cost.py                        ResNet-20, batch 128, CIFAR size
    python benchmarks/jointrd_cost.py --network resnet56 --rounds 10

Forms of one network take turns in one process:

    standard   the network with its shortcuts, alone
    plain      the network without, alone
    shared     JointRD with a frozen teacher: features that pass the same teacher stages do so as one batch
    each       the same paths, each through the teacher on its own
    default    as recipes train: Dirac convolutions, the teacher's tails and features
    record     one record of `GradientRecorder` beside the latter, on a batch of the same size

Printed: the median milliseconds a step, the median over the rounds of the ratios within a round, and the ratio by
multiply-accumulates, where the two backward products of a convolution count as much as the forward one each and a
frozen one has one.
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
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.surgery.tasks import default_loss
from tfjointrd.training.methods.tails import through


class EachPath(jrd.JointRD):
    """JointRD with one call of the teacher's remaining stages for each path."""

    def _tail_passes(self, student):
        found = {}
        for i, (name, feature) in enumerate(zip(self.tails.names, student["boundaries"], strict=True)):
            outputs = {"tail": feature}
            for segment in self.tails.segments[i:]:
                outputs = through(segment, outputs["tail"], self.joint)
            found[name] = outputs
        return found


def multiply_accumulates(teacher: keras.Model, student: keras.Model, boundaries, features: bool = False) -> float:
    """Those of a JointRD step over those of a standard one; the teacher's own pass is for its features."""
    costs = {layer.name: layer.macs or 0 for layer in jrd.report.profile(teacher).layers}
    names = list(costs)
    tails = sum(sum(costs[name] for name in names[names.index(end) + 1 :]) for _, end in boundaries)
    full = sum(costs.values())
    return (3 * jrd.report.profile(student).macs + 2 * tails + features * full) / (3 * full)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="a CIFAR network of tfjointrd.models")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of two steps of each form")
    options = parser.parse_args()

    network = getattr(jrd.models, options.network)()
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (options.batch_size, *network.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, options.batch_size))
    network(images, training=True)  # statistics of batch normalisation that fit

    plain = jrd.remove_shortcuts(network)
    steps = {}
    for name, model in (("standard", network), ("plain", plain)):
        model, loss = with_fused_batch_normalization(model), default_loss(model)
        steps[name] = sgd_step(model, lambda outputs, loss=loss: loss(labels, outputs), images)
    for name, cls, student, own in (
        ("shared", jrd.JointRD, plain, {}),
        ("each", EachPath, plain, {}),
        ("default", jrd.JointRD, jrd.dirac(plain), {"methods": jrd.distillers.Overhaul(1e-3)}),
    ):
        joint = cls(with_fused_batch_normalization(student), network, **own)
        joint.compile("sgd")
        joint.total_steps.assign(1e9)
        steps[name] = sgd_step(joint, lambda outputs, joint=joint: joint.training_loss(labels, outputs), images)
    recorder = jrd.training.GradientRecorder(images, labels)
    recorder.set_model(joint)
    steps["record"] = lambda: recorder.records(0, 0)[0]["own_norm"]

    times = Times(steps, options.rounds)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.network}, batch {options.batch_size}, {cores} cores, {options.rounds} rounds")
    for name in steps:
        print(f"{name:10s}{times.milliseconds(name):8.1f} ms a step")
    for form, features in (("shared", False), ("default", True)):
        macs = multiply_accumulates(network, plain, joint.boundaries, features)
        print(f"{form + ' / standard':20s}{times.ratio(form, 'standard'):.3f}   by multiply-accumulates {macs:.3f}")
    for form, over in (("shared", "plain"), ("shared", "each"), ("record", "default")):
        print(f"{form + ' / ' + over:20s}{times.ratio(form, over):.3f}")


if __name__ == "__main__":
    main()
