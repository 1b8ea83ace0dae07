"""How many images a second training takes, against PyTorch.

    python benchmarks/training.py                                   ResNet-20, batch 128, CIFAR size
    python benchmarks/training.py --network resnet56 --rounds 10
    KERAS_BACKEND=jax python benchmarks/training.py                  `model.fit` against `training.resident.fit`

    taskset -c 0 python benchmarks/training.py                       one core, where others have work as well

The forms of one network take turns, so that whatever else the machine does hits all of them. All train by SGD with
Nesterov momentum and weight decay on the same number of weights.

On TensorFlow:

    step, Keras BN       bare training steps on one batch, Keras' own batch normalisation
    step, fused BN       the same with `tfjointrd.layers.FusedBatchNormalization`
    fit                  `model.fit` with fused BN on an `ArrayPipeline` that shuffles, crops and mirrors
    fit, 8 a call        the same, compiled with `steps_per_execution=8`
    fit, repeatable      `fit` with operations only whose results repeat bit by bit, as recipes are run

On JAX:

    fit                  `model.fit` on such a pipeline
    resident             `tfjointrd.training.resident.fit` on it

Where PyTorch is installed, its form is the same network in eager mode with channels last, bare steps on one batch. It
waits for its turns in a process of its own: beside TensorFlow, on one core, its steps took twice their time. So does
the repeatable form, because the switch for it holds for a whole process. PyTorch's threads wait for one another busily,
so that ratios mean nothing where other programs take the cores from them.

Printed: the pipeline's images a second alone; for each form the medians over the rounds of images a second and of
processor milliseconds a step (of all cores), and the medians of its ratios to PyTorch within a round, by wall clock and
by processor time, which on one core is the fairer one where others have work too. The last line compares like with
like: bare steps on TensorFlow, or resident training on JAX, over PyTorch's bare steps.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # see README.md: no network here is affected

import keras
import numpy as np

import tfjointrd as jrd
from tfjointrd.data import ArrayPipeline, DatasetInfo
from tfjointrd.surgery.swap import with_fused_batch_normalization

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
TOGETHER = 8  # steps_per_execution
PYTORCH, DETERMINISTIC = "PyTorch", "fit, repeatable"


class Cost(NamedTuple):
    """Seconds that one step takes, and processor seconds of all threads."""

    seconds: float
    processor: float


class Stopwatch:
    """Wall-clock and processor time since it was made."""

    def __init__(self):
        self.began = time.perf_counter(), time.process_time()

    def cost(self, steps: int) -> Cost:
        """The time so far, divided by the steps taken in it."""
        return Cost((time.perf_counter() - self.began[0]) / steps, (time.process_time() - self.began[1]) / steps)


# === Data ===


def pipeline(batch_size: int, steps: int, shape=(32, 32, 3)) -> ArrayPipeline:
    """Random images in batches of one size, shuffled, cropped and mirrored."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (steps * batch_size, *shape), dtype="uint8")
    info = DatasetInfo("random", 10, shape, (127.5,) * 3, (64.0,) * 3)
    y = rng.integers(0, 10, len(x))
    return ArrayPipeline(x, y, info, batch_size, training=True, padding=4, flip=True)


def pipeline_alone(batches: ArrayPipeline) -> float:
    """Images a second that the pipeline makes when nothing trains."""
    watch = Stopwatch()
    for _ in batches:
        pass
    return batches.size / watch.cost(1).seconds


# === Keras ===


def compiled(model: keras.Model, steps_per_execution: int = 1) -> keras.Model:
    optimizer = keras.optimizers.SGD(LEARNING_RATE, MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=steps_per_execution)
    return model


def bare_steps(model: keras.Model, batch_size: int, steps: int) -> Callable[[], Cost]:
    """Gradient and update alone, on a batch that lies in memory."""
    import tensorflow as tf

    compiled(model)
    model.optimizer.build(model.trainable_variables)
    images, labels = (tf.constant(array) for array in pipeline(batch_size, 1).batch(0))
    variables = [variable.value for variable in model.trainable_variables]
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        model.optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    def run() -> Cost:
        watch = Stopwatch()
        for _ in range(steps):
            loss = step()
        float(loss)
        return watch.cost(steps)

    return run


class Timer(keras.callbacks.Callback):
    """The cost of a step from the end of the first call to the end of the last, without what `fit` does around."""

    def on_train_begin(self, logs=None):
        """A new measurement."""
        self.watch = None

    def on_train_batch_end(self, batch, logs=None):
        """Keras has read the logs, so that the step is done."""
        if self.watch is None:
            self.watch, self.first = Stopwatch(), batch
        else:
            self.cost = self.watch.cost(batch - self.first)


def fit_steps(model: keras.Model, batch_size: int, steps: int, together: int = 1) -> Callable[[], Cost]:
    """`model.fit` with its input pipeline."""
    compiled(model, together)
    batches, timer = pipeline(batch_size, steps + together), Timer()

    def run() -> Cost:
        model.fit(batches, callbacks=[timer], verbose=0)
        return timer.cost

    return run


def deterministic_steps(name: str, batch_size: int, steps: int) -> Callable[[], Cost]:
    """`fit_steps` with operations only whose results repeat bit by bit, as `experiments.run` trains."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    return fit_steps(with_fused_batch_normalization(getattr(jrd.models, name)()), batch_size, steps)


class ResidentRounds(keras.callbacks.Callback):
    """Measures each block of a resident training, and lets the other forms run in between."""

    def __init__(self, others: Callable[[], dict[str, Cost]]):
        super().__init__()
        self.others, self.rounds = others, []

    def on_train_batch_begin(self, batch, logs=None):
        """A block begins."""
        self.watch = Stopwatch()

    def on_train_batch_end(self, batch, logs=None):
        """Keras has read the logs, so that the block is done."""
        self.cost = self.watch.cost(batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        """The others' turn."""
        self.rounds.append({**self.others(), "resident": self.cost})


def resident_rounds(forms, model: keras.Model, batch_size: int, steps: int, rounds: int) -> list[dict[str, Cost]]:
    """Rounds of all forms and of the resident training, each of whose epochs is a round."""
    from tfjointrd.training.engines import resident

    measured = ResidentRounds(lambda: {name: run() for name, run in forms.items()})
    train = pipeline(batch_size, steps)
    resident.fit(compiled(model), train, epochs=rounds, block=steps, callbacks=[measured], verbose=0)
    return measured.rounds


# === PyTorch ===


def torch_network(depth: int):
    """The CIFAR ResNet of this package (shortcut B) in PyTorch."""
    import torch
    from torch import nn

    def convolution(inputs: int, filters: int, size: int, strides: int = 1):
        return nn.Sequential(
            nn.Conv2d(inputs, filters, size, strides, padding=size // 2, bias=False), nn.BatchNorm2d(filters)
        )

    class Block(nn.Module):
        def __init__(self, inputs: int, filters: int, strides: int):
            super().__init__()
            self.first, self.second = convolution(inputs, filters, 3, strides), convolution(filters, filters, 3)
            self.shortcut = nn.Identity() if inputs == filters else convolution(inputs, filters, 1, strides)

        def forward(self, x):
            return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    class Normalization(nn.Module):
        def forward(self, x):
            return x * (1 / 64.0) - 127.5 / 64.0

    layers, inputs = [Normalization(), convolution(3, 16, 3), nn.ReLU()], 16
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 2) // 6):
            layers.append(Block(inputs, filters, strides if block == 0 else 1))
            inputs = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def torch_steps(depth: int, weights: int, batch_size: int, steps: int) -> Callable[[], Cost]:
    """Eager PyTorch with channels last, on as many weights as the Keras network has."""
    import torch

    network = torch_network(depth).to(memory_format=torch.channels_last).train()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == weights, f"Expected {weights} weights in PyTorch's network. Received: {count}."
    images, labels = pipeline(batch_size, 1).batch(0)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    loss_function = torch.nn.CrossEntropyLoss()

    def run() -> Cost:
        watch = Stopwatch()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_function(network(images), labels)
            loss.backward()
            optimizer.step()
        loss.item()
        return watch.cost(steps)

    return run


# === Forms in processes of their own ===


def take_turns(connection, make: Callable[..., Callable[[], Cost]], arguments: tuple) -> None:
    """The other process: a round for each `True`, until `False`."""
    run = make(*arguments)
    while connection.recv():
        connection.send(run())


@contextlib.contextmanager
def in_a_process(backend: str, make: Callable[..., Callable[[], Cost]], *arguments) -> Iterator[Callable[[], Cost]]:
    """The form that `make(*arguments)` returns, in a process of its own into which no other backend is imported."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=take_turns, args=(there, make, arguments), daemon=True)
    ours, os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", ""), backend
    process.start()
    os.environ["KERAS_BACKEND"] = ours
    there.close()

    def run() -> Cost:
        here.send(True)
        return here.recv()

    yield run
    here.send(False)
    process.join()


# === The comparison ===


def measure(options, network: Callable[[], keras.Model], forms: dict[str, Callable[[], Cost]]) -> list[dict[str, Cost]]:
    """Rounds of `forms` and all forms on Keras; the first, which compiles, is left out."""
    size, steps = options.batch_size, options.steps
    if keras.backend.backend() == "jax":
        forms["fit"] = fit_steps(network(), size, steps)
        return resident_rounds(forms, network(), size, steps, options.rounds + 1)[1:]
    forms["step, Keras BN"] = bare_steps(network(), size, steps)
    forms["step, fused BN"] = bare_steps(with_fused_batch_normalization(network()), size, steps)
    forms["fit"] = fit_steps(with_fused_batch_normalization(network()), size, steps)
    together = with_fused_batch_normalization(network())
    forms[f"fit, {TOGETHER} a call"] = fit_steps(together, size, steps, TOGETHER)
    return [{name: run() for name, run in forms.items()} for _ in range(options.rounds + 1)][1:]


def report(rounds: list[dict[str, Cost]], batch_size: int, like_for_like: str) -> None:
    """Prints the table and the last line."""

    def ratio(name: str, measured: str) -> float:
        pairs = [(getattr(costs[PYTORCH], measured), getattr(costs[name], measured)) for costs in rounds]
        return statistics.median(pytorch / ours for pytorch, ours in pairs)

    compared = PYTORCH in rounds[0]
    print(
        f"{'':18s}{'images/s':>10s}{'ms a step':>11s}{'CPU ms':>9s}" + (f"{'to PyTorch':>12s}{'by CPU':>8s}" * compared)
    )
    for name in rounds[0]:
        seconds = statistics.median(costs[name].seconds for costs in rounds)
        processor = statistics.median(costs[name].processor for costs in rounds)
        line = f"{name:18s}{batch_size / seconds:10.0f}{1000 * seconds:11.1f}{1000 * processor:9.0f}"
        print(line + (f"{ratio(name, 'seconds'):12.2f}{ratio(name, 'processor'):8.2f}" if compared else ""))
    if DETERMINISTIC in rounds[0]:
        cost = statistics.median(costs[DETERMINISTIC].seconds / costs["fit"].seconds for costs in rounds)
        print(f"{DETERMINISTIC}, over fit in time: {cost:.3f}")
    if compared:
        print(f"ratio to PyTorch: {ratio(like_for_like, 'seconds'):.2f}")
    else:
        print("ratio to PyTorch: not measured, PyTorch is not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="a CIFAR ResNet of tfjointrd.models, e.g. resnet56")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=TOGETHER, help=f"steps of each form a round, {TOGETHER}n")
    options = parser.parse_args()
    depth = options.network.removeprefix("resnet")
    if not depth.isdigit() or int(depth) % 6 != 2:
        parser.error(f"expected a CIFAR ResNet, e.g. resnet20. Received: --network {options.network}")
    if options.rounds < 1 or options.steps < TOGETHER or options.steps % TOGETHER:
        parser.error(f"expected at least one round and a multiple of {TOGETHER} steps. Received: {options}")

    backend, cores = keras.backend.backend(), len(os.sched_getaffinity(0))
    print(f"{options.network}, batch {options.batch_size}, {backend}, {cores} cores, {options.rounds} rounds")
    print(f"input pipeline alone {pipeline_alone(pipeline(options.batch_size, 40)):.0f} images/s on one core")
    network = getattr(jrd.models, options.network)
    with contextlib.ExitStack() as stack:
        forms = {}
        if importlib.util.find_spec("torch"):
            weights = sum(int(np.prod(variable.shape)) for variable in network().trainable_variables)
            arguments = (int(depth), weights, options.batch_size, options.steps)
            forms[PYTORCH] = stack.enter_context(in_a_process("torch", torch_steps, *arguments))
        if backend == "tensorflow":
            arguments = (options.network, options.batch_size, options.steps)
            forms[DETERMINISTIC] = stack.enter_context(in_a_process(backend, deterministic_steps, *arguments))
        rounds = measure(options, network, forms)
    report(rounds, options.batch_size, "resident" if backend == "jax" else "step, fused BN")


if __name__ == "__main__":
    main()
