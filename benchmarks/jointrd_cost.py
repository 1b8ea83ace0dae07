"""What a step of JointRD costs, over a standard step and over one call of the teacher for each path.

    python benchmarks/jointrd_cost.py                        ResNet-20, batch 128, CIFAR size
    python benchmarks/jointrd_cost.py --network resnet56 --rounds 10

Forms of one network take turns in one process:

    standard   the network with its shortcuts, alone
    plain      the network without, alone
    shared     JointRD with a frozen teacher: features that pass the same teacher stages do so as one batch
    each       the same paths, each through the teacher on its own

Printed: the median milliseconds a step, the median over the rounds of the ratios within a round, and the ratio by
multiply-accumulates, where the two backward products of a convolution count as much as the forward one each and a
frozen one has one.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as on the command line

import keras
import numpy as np
import tensorflow as tf
from interleaved import Times, sgd_step

import tfjointrd as jrd
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.training.losses import default_loss


class EachPath(jrd.JointRD):
    """JointRD with one call of the teacher's remaining stages for each path."""

    def _tails(self, features):
        found = []
        for i, feature in enumerate(features):
            outputs = {"tail": feature}
            for segment in self._networks.segments[i:]:
                outputs = self._through(segment, outputs["tail"])
            found.append(outputs)
        return found


def multiply_accumulates(teacher: keras.Model, student: keras.Model, boundaries) -> float:
    """Those of a JointRD step over those of a standard one."""
    costs = {layer.name: layer.macs or 0 for layer in jrd.report.profile(teacher).layers}
    names = list(costs)
    tails = sum(sum(costs[name] for name in names[names.index(end) + 1 :]) for _, end in boundaries)
    return (3 * jrd.report.profile(student).macs + 2 * tails) / (3 * sum(costs.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="a CIFAR network of tfjointrd.models")
    parser.add_argument("--dirac", action="store_true", help="with Dirac convolutions in the plain network")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of two steps of each form")
    options = parser.parse_args()

    network = getattr(jrd.models, options.network)()
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (options.batch_size, *network.input_shape[1:])), tf.float32)
    labels = tf.constant(rng.integers(0, 10, options.batch_size))
    network(images, training=True)  # statistics of batch normalisation that fit

    def student():
        plain = jrd.remove_shortcuts(network)
        return with_fused_batch_normalization(jrd.dirac(plain) if options.dirac else plain)

    steps = {}
    for name, model in (("standard", with_fused_batch_normalization(network)), ("plain", student())):
        loss = default_loss(model)
        steps[name] = sgd_step(model, lambda outputs, loss=loss: loss(labels, outputs), images)
    for name, cls in (("shared", jrd.JointRD), ("each", EachPath)):
        joint = cls(student(), network)
        joint.compile("sgd")
        joint.total_steps.assign(1e9)
        steps[name] = sgd_step(joint, lambda outputs, joint=joint: joint.training_loss(labels, outputs), images)

    times = Times(steps, options.rounds)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.network}, batch {options.batch_size}, {cores} cores, {options.rounds} rounds")
    for name in steps:
        print(f"{name:10s}{times.milliseconds(name):8.1f} ms a step")
    macs = multiply_accumulates(network, jrd.remove_shortcuts(network), joint.boundaries)
    print(f"shared / standard  {times.ratio('shared', 'standard'):.3f}   by multiply-accumulates {macs:.3f}")
    print(f"shared / plain     {times.ratio('shared', 'plain'):.3f}")
    print(f"shared / each      {times.ratio('shared', 'each'):.3f}")


if __name__ == "__main__":
    main()
