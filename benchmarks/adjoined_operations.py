"""Where the time of an adjoined training step goes, operation by operation, beside that of a standard step.

    python benchmarks/adjoined_operations.py
    python benchmarks/adjoined_operations.py --networks ResNet50 --alpha 4 --rounds 10

TensorFlow's profiler times every operation of single steps, one at a time; the two forms take turns. Printed, for each
kind of operation: the median milliseconds in a standard and in an adjoined step, and what the adjoined one takes beyond
the standard one times the ratio of the multiply-accumulates. These last numbers add up to the gap between time and
arithmetic. `between operations` is what is left of a step: Python, TensorFlow's scheduling, the profiler itself.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # see README.md: no network here is affected

import tensorflow as tf

tf.config.threading.set_inter_op_parallelism_threads(1)  # one operation at a time, so that their times add up

from adjoined_cost import NETWORKS, build, make_form, make_step, predicted  # noqa: E402
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # noqa: E402

import tfjointrd as jrd  # noqa: E402

KINDS = {
    "convolutions": "Conv|MatMul",
    "batch normalisation": "BatchNorm",
    "activations, additions, pooling": "Relu|Elu|Tanh|Sigmoid|Pool|AddV2|AddN|Mean|Tile|BiasAdd|Softmax|CrossEntropy",
    "slices of the weights": "Slice|Split|Concat|Pad",
    "weights updated": "Variable|Mul|Sub|Assign",
}
BETWEEN = "between operations"
# The profiler's own names for what surrounds operations: they contain them.
SURROUNDING = {"Run", "Process", "Record", "StartRegion", "StopRegion"}


def operations(step: Callable) -> Counter:
    """Milliseconds of one step by kind of operation, and under `whole`."""
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            step()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    times = Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name, milliseconds = plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9
            if name == "step":
                times["whole"] += milliseconds
            operation = re.search(r":(\w+)$", name)
            if operation and operation[1] not in SURROUNDING:
                kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, operation[1]))
                times[next(kinds, BETWEEN)] += milliseconds
    times[BETWEEN] = times["whole"] - sum(times[kind] for kind in KINDS)
    return times


def compare(name: str, alpha: int, rounds: int) -> None:
    """Prints the lines of one network."""
    model = build(name)
    pair = jrd.adjoin(model, alpha)
    batch_size = 128 if model.input_shape[1] == 32 else 32
    steps = {form: make_step(make_form(form, model, pair), batch_size, jit=False) for form in ("standard", "adjoined")}
    for step in steps.values():
        step(), operations(step)
    found = [{form: operations(step) for form, step in steps.items()} for _ in range(rounds)]
    by_macs = predicted(model, pair)["adjoined"]
    print(f"\n{name} at {model.input_shape[1]} pixels, alpha {alpha}, batch {batch_size}, {rounds} rounds")
    print(f"{'ms a step':32s}{'standard':>10s}{'adjoined':>10s}{'beyond MACs':>13s}")
    for kind in (*KINDS, BETWEEN, "whole"):
        standard, adjoined = (statistics.median(times[form][kind] for times in found) for form in steps)
        beyond = statistics.median(times["adjoined"][kind] - by_macs * times["standard"][kind] for times in found)
        print(f"{kind:32s}{standard:10.1f}{adjoined:10.1f}{beyond:+13.1f}", flush=True)
    ratio = statistics.median(times["adjoined"]["whole"] / times["standard"]["whole"] for times in found)
    print(f"adjoined / standard {ratio:.3f}, by MACs {by_macs:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of tfjointrd.models or keras.applications")
    parser.add_argument("--alpha", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of one step of each form")
    options = parser.parse_args()
    for name in options.networks:
        compare(name, options.alpha, options.rounds)


if __name__ == "__main__":
    main()
