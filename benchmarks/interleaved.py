"""Training steps of several forms of a network that take turns, so that whatever else the machine does hits all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf


def sgd_step(model: keras.Model, loss_of: Callable, images, jit: bool = False) -> Callable:
    """A function that takes one step of SGD.

    Args:
        model: What is trained.
        loss_of: `outputs -> loss`.
        images: The batch.
        jit: Whether to compile with XLA.
    """
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(model(images, training=True))
        optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    return step


def multiply_accumulates(step: Callable) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a step, forward and backward.

    What TensorFlow leaves out because nothing needs it, such as the gradient with respect to images, does not count.

    Args:
        step: What `sgd_step` returned.
    """
    graph = step.get_concrete_function().graph
    kept = {operation for operation in graph.get_operations() if operation.op_def.is_stateful}
    waiting = list(kept)
    while waiting:
        operation = waiting.pop()
        found = {tensor.op for tensor in operation.inputs} - kept
        kept |= found
        waiting += found
    return sum(_multiply_accumulates(operation) for operation in kept)


def _multiply_accumulates(operation: tf.Operation) -> int:
    """Those of one operation. A convolution's gradients take as many as the convolution."""
    if operation.type == "MatMul":
        rows, inner = operation.inputs[0].shape
        return rows * inner * operation.outputs[0].shape[-1]
    if not operation.type.startswith("Conv2D"):
        return 0
    kernel = (operation.outputs if operation.type == "Conv2DBackpropFilter" else operation.inputs)[
        {"Conv2D": 1, "Conv2DBackpropInput": 1, "Conv2DBackpropFilter": 0}[operation.type]
    ]
    result = operation.outputs[0] if operation.type == "Conv2D" else operation.inputs[2]
    shape = kernel.shape
    if not shape.is_fully_defined():
        shape = tf.TensorShape(tf.get_static_value(operation.inputs[1]))
    return math.prod(result.shape[:-1]) * math.prod(shape)


class Times:
    """Seconds a step of several forms, measured in turns.

    Args:
        steps: The steps by the form's name.
        rounds: Number of rounds.
        repeats: Steps of each form in a round.
    """

    def __init__(self, steps: Mapping[str, Callable], rounds: int, repeats: int = 2):
        for step in steps.values():
            for _ in range(3):
                step()
        self.seconds: dict[str, list[float]] = {name: [] for name in steps}
        self.processor: dict[str, list[float]] = {name: [] for name in steps}  # seconds of all cores
        for _ in range(rounds):
            for name, step in steps.items():
                began, used = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    loss = step()
                float(loss)
                self.seconds[name].append((time.perf_counter() - began) / repeats)
                self.processor[name].append((time.process_time() - used) / repeats)

    def milliseconds(self, name: str) -> float:
        """The median of a form."""
        return 1000 * statistics.median(self.seconds[name])

    def ratio(self, form: str, over: str) -> float:
        """The median of the ratios within the rounds."""
        return _median_ratio(self.seconds[form], self.seconds[over])

    def processor_ratio(self, form: str, over: str) -> float:
        """The same of processor time, which other work on the machine changes less."""
        return _median_ratio(self.processor[form], self.processor[over])


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
