"""Training on Keras' JAX backend with the data set resident on the accelerator.

`keras.Model.fit` hands over one batch and calls one step at a time, which leaves a fast accelerator waiting for the
host when networks are small. Here the images are uploaded once, an epoch uploads only its plan (order, crops,
mirroring), and one call of a compiled function takes many steps: it gathers, crops and mirrors the images of each
batch, and takes the model's own `train_step`. Batches, steps and results are those of `fit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfjointrd.data.arrays import ArrayPipeline, EpochPlan
from tfjointrd.training.scheduled_model import ScheduledModel, _Progress

LONGEST_BLOCK = 100  # steps a call by default: fractions of a second on a GPU


def fit(
    model: keras.Model,
    train: ArrayPipeline,
    validation_data: ArrayPipeline | None = None,
    *,
    epochs: int,
    initial_epoch: int = 0,
    initial_position: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
    block: int | None = None,
) -> keras.callbacks.History:
    """Trains as `model.fit(train, validation_data=..., epochs=...)` does, with the images on the accelerator.

    The steps of an epoch are taken in blocks: each is one call of a compiled function. Callbacks run between blocks:
    `on_train_batch_begin` and `on_train_batch_end` once a block, with the position of its first and of its last step.
    Whenever a callback runs, all variables of model, optimizer and metrics hold their present values, and values that
    a callback assigns to them are used from then on. `model.stop_training` is obeyed after each block and epoch.

    As in `model.fit`, the epochs served are those of the pipeline: `train.epoch` comes first and counts on at each
    epoch's end. A training that is taken up again therefore begins with `train.set_epoch(...)`. Blocks are the same
    ones wherever a training is taken up, so that with the values of all variables restored (in `on_train_begin`; those
    of metrics in `on_epoch_begin`, before which they are reset) it repeats the uninterrupted one bit for bit. Between
    processes on a GPU that needs `XLA_FLAGS=--xla_gpu_deterministic_ops=true`, for XLA else picks algorithms by timing.

    On a CPU, whose compiled loops are slow, each step is a call of its own; blocks and results are the same.

    The functions are compiled anew by each call of `fit`, whatever `jit_compile`, `run_eagerly` and
    `steps_per_execution` were given to `compile`.

    Args:
        model: A compiled model whose `train_step(state, data)` is Keras' or like it. `JointRD` and `Adjoined` are.
        train: The training set, images `(size, height, width, channels)` in memory.
        validation_data: The validation set, evaluated after each epoch.
        epochs: The epoch at which to stop, counted from 0 as in `keras.Model.fit`.
        initial_epoch: The epoch to begin with.
        initial_position: Number of steps of that epoch that are done already: 0, a multiple of `block`, or all.
        callbacks: One or several Keras callbacks.
        verbose: 0 (silent), 1 or "auto" (progress bar), 2 (a line an epoch).
        block: Number of steps in a block. By default an epoch's blocks are as equal as possible and no longer than
            100 steps; see `block_length`.

    Returns:
        The `keras.callbacks.History`: metrics of each epoch, those of validation with the prefix `val_`.

    Raises:
        ValueError: If the backend is not JAX, the model is not compiled, a data set is not an `ArrayPipeline`, labels,
            callbacks or the batch size do not fit a `ScheduledModel`, or `block`, `initial_epoch` or
            `initial_position` are out of range.

    Example:

    >>> train, validation = tfjointrd.data.load("digits", batch_size=128)
    >>> model = tfjointrd.models.cifar_resnet(8, input_shape=(8, 8, 1))
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    >>> history = fit(model, train, validation, epochs=2, verbose=0)

    Reference:
        https://keras.io/guides/custom_train_step_in_jax, the pure `train_step(state, data)`.
    """
    _check(model, train, validation_data)
    block = _checked_block(block, len(train))
    _check_start(initial_epoch, initial_position, block, len(train))
    callbacks = keras.tree.flatten(callbacks or ())
    if isinstance(model, ScheduledModel):
        model.check_labels(train.y)
        if validation_data is not None:
            model.check_labels(validation_data.y, " of `validation_data`", again=False)
        model.check_batch_size(min(train.batch_size, train.size))
        callbacks = [_Start(initial_epoch, initial_position), *model.with_own(callbacks)]
    called = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=len(train),
        model=model,
    )
    training = _Training(model, train, validation_data, called, block)
    model.stop_training = False
    logs: dict[str, Any] = {}
    called.on_train_begin()
    if model._initial_epoch:  # what `keras.callbacks.BackupAndRestore` has brought back
        initial_epoch, initial_position = model._initial_epoch, 0
    try:
        for epoch in range(initial_epoch, epochs):
            logs = training.epoch(epoch, initial_position if epoch == initial_epoch else 0)
            if model.stop_training:
                break
    finally:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    called.on_train_end(logs)
    return model.history


def block_length(steps: int, longest: int = LONGEST_BLOCK) -> int:
    """The length of equal blocks, the last one possibly shorter, that make up `steps` and are no longer than `longest`.

    >>> block_length(391)
    98
    """
    return -(-steps // -(-steps // longest))


# === Checks ===


def _check(model, train, validation_data) -> None:
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Expected Keras on its JAX backend, which the environment variable KERAS_BACKEND=jax selects. "
            f"Received: backend='{keras.backend.backend()}'."
        )
    if keras.distribution.distribution() is not None:
        raise ValueError(
            f"Expected one device only. Received: distribution={keras.distribution.distribution()}. Use `model.fit`."
        )
    if not model.compiled:
        raise ValueError(f"Expected a compiled model; call `compile` first. Received: model '{model.name}'.")
    for name, value in (("train", train), ("validation_data", validation_data)):
        if not isinstance(value, ArrayPipeline) and not (name == "validation_data" and value is None):
            raise ValueError(f"Expected `{name}` to be a `tfjointrd.data.ArrayPipeline`. Received: {name}={value!r}.")


def _checked_block(block: int | None, steps: int) -> int:
    if block is None:
        return block_length(steps)
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"Expected `block` to be a number of steps from 1 on. Received: block={block!r}.")
    return min(block, steps)


def _check_start(initial_epoch: int, initial_position: int, block: int, steps: int) -> None:
    if initial_epoch < 0:
        raise ValueError(f"Expected `initial_epoch` from 0 on. Received: initial_epoch={initial_epoch}.")
    borders = [*range(0, steps, block), steps]
    if initial_position not in borders:
        raise ValueError(
            f"Expected `initial_position` to lie on a border of the epoch's blocks: a multiple of {block}, or {steps}, "
            f"the end. Received: initial_position={initial_position}."
        )


class _Start(_Progress):
    """Tells a `ScheduledModel` how long the training is and where it begins, in an epoch's middle too."""

    def __init__(self, initial_epoch: int, initial_position: int):
        super().__init__(initial_epoch)
        self.initial_position = initial_position

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.model.step.assign(self.params["steps"] * self.initial_epoch + self.initial_position)


# === Variables ===


def _groups(model: keras.Model, optimizer: bool) -> list[list]:
    """The model's variables as Keras' `train_step` (with those of the optimizer) or `test_step` take them."""
    groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
    return [*groups[:2], model.optimizer.variables, groups[2]] if optimizer else groups


def _state(model: keras.Model, optimizer: bool = True) -> tuple[list, ...]:
    """The present values of the variables."""
    return tuple([variable.value for variable in group] for group in _groups(model, optimizer))


def _assign(model: keras.Model, state: tuple[list, ...], optimizer: bool = True) -> None:
    for group, values in zip(_groups(model, optimizer), state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


def _build(model: keras.Model, images, labels) -> None:
    """Makes the variables that Keras makes at the first batch: of the optimizer, of metrics, of a lazy model.

    Tracing is enough; in the `StatelessScope` new variables wait with their initial values until it is left.
    """
    import jax

    if not model.built:
        with keras.StatelessScope():
            jax.eval_shape(model, images)
    model.optimizer.build(model.trainable_variables)
    with keras.StatelessScope():
        jax.eval_shape(model.test_step, _state(model, optimizer=False), (images, labels))


# === Data and steps on the device ===


class _Resident:
    """A data set on the device, and the steps of a model over it.

    Args:
        model: The model.
        pipeline: The data set.
        training: Whether the steps are `train_step` or `test_step`.
        other: Another one on the device; what is of the same arrays, as a part held out of them is, shares its images.
    """

    def __init__(self, model: keras.Model, pipeline: ArrayPipeline, training: bool, other: _Resident | None = None):
        import jax

        self.model = model
        self.pipeline = pipeline
        self.training = training
        self.data: Any
        if other is not None and other.pipeline.x is pipeline.x and other.pipeline.y is pipeline.y:
            self.data = other.data
        else:
            self.data = jax.device_put((pipeline.x, pipeline.y))
        self._steps = jax.jit(self._many_steps, static_argnames=("count", "rest"))

    def plan(self) -> EpochPlan:
        """The plan of the pipeline's next epoch, on the device."""
        import jax

        return jax.device_put(self.pipeline.plan())

    def run(self, plan: EpochPlan, first: int, last: int) -> dict[str, Any]:
        """Takes the steps from position `first` up to, but not including, `last`, on the model's variables.

        Returns:
            The logs of the last step.
        """
        full = min(last, self.pipeline.size // self.pipeline.batch_size)
        rest = self.pipeline.size - full * self.pipeline.batch_size if last > full else 0
        state = _state(self.model, self.training)
        logs: dict[str, Any] = {}
        for start, count, smaller in self._calls(first, full, rest):
            logs, state = self._steps(state, self.data, plan, np.int32(start), count=count, rest=smaller)
        _assign(self.model, state, self.training)
        return logs

    def _calls(self, first: int, full: int, rest: int) -> list[tuple[int, int, int]]:
        """First position, number of full batches and size of the smaller last batch of each call."""
        if _loops_are_fast():
            return [(first, full - first, rest)]
        return [(position, 1, 0) for position in range(first, full)] + [(full, 0, rest)] * bool(rest)

    def _many_steps(self, state, data, plan, first, *, count: int, rest: int):
        """`count` steps of full batches from position `first` on, then one of `rest` images, if any."""
        import jax

        step = self.model.train_step if self.training else self.model.test_step
        size = self.pipeline.batch_size
        logs: dict[str, Any] = {}

        def scanned(state, position):
            logs, new = step(state, self.batch(data, plan, position * size, size))
            return jax.tree.map(lambda value, old: value.astype(old.dtype), new, state), logs

        if count == 1:  # without a loop, which XLA may be slow in
            logs, state = step(state, self.batch(data, plan, first * size, size))
        elif count:
            state, history = jax.lax.scan(scanned, state, first + np.arange(count, dtype="int32"))
            logs = jax.tree.map(lambda values: values[-1], history)
        if rest:
            logs, state = step(state, self.batch(data, plan, (first + count) * size, rest))
        return logs, state

    def batch(self, data, plan: EpochPlan, start, count: int):
        """The images from `start` on in the epoch's order, cropped and mirrored, with their labels: `pipeline.batch`.

        Args:
            data: All images and all labels.
            plan: The epoch's plan.
            start: Where the batch begins in the plan, a scalar.
            count: Number of images.

        Returns:
            Tuple of images `(count, height, width, channels)` in float32 and labels `(count,)` in int32.
        """
        import jax

        images, labels = data
        plan = jax.tree.map(lambda part: jax.lax.dynamic_slice_in_dim(part, start, count), plan)
        chosen = _cropped(images, plan, self.pipeline.padding) if self.pipeline.augmented else images[plan.order]
        return chosen.astype("float32"), labels[plan.order]


def _loops_are_fast() -> bool:
    """Whether a compiled loop over steps pays. On CPUs XLA's convolutions take 30 times longer in a loop (measured)."""
    import jax

    return jax.default_backend() != "cpu"


def _cropped(images, plan: EpochPlan, padding: int):
    """Gathers the chosen images' cropped and mirrored pixels; those outside of an image are zero."""
    import jax.numpy as jnp

    height, width = images.shape[1:3]
    rows, columns, mirrored = plan.crops
    across = jnp.arange(width)
    across = jnp.where(mirrored[:, None], width - 1 - across, across)
    y = (rows[:, None] + jnp.arange(height) - padding)[:, :, None]
    x = (columns[:, None] + across - padding)[:, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    chosen = images[plan.order[:, None, None], jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
    return jnp.where(inside[..., None], chosen, 0)


# === The loop ===


class _Training:
    """The epochs of one training, with Keras' order of callbacks.

    Args:
        model: The model.
        train: The training set.
        validation_data: The validation set, or `None`.
        callbacks: All callbacks.
        block: Number of steps in a block.
    """

    def __init__(self, model, train, validation_data, callbacks, block: int):
        self.model = model
        self.callbacks = callbacks
        self.block = block
        self.resident = _Resident(model, train, training=True)
        images, labels = train.batch(0)
        _build(model, images, labels)
        self.validation = None
        if validation_data is not None:
            self.validation = _Resident(model, validation_data, training=False, other=self.resident)

    def epoch(self, epoch: int, position: int) -> dict[str, Any]:
        """Trains an epoch from `position` on, and evaluates. Returns the epoch's logs."""
        pipeline = self.resident.pipeline
        self.model.reset_metrics()
        self.callbacks.on_epoch_begin(epoch)
        plan, logs = self.resident.plan(), None
        for first, last in self._blocks(position, len(pipeline)):
            self.callbacks.on_train_batch_begin(first)
            logs = self.resident.run(plan, first, last)
            self.callbacks.on_train_batch_end(last - 1, logs)
            position = last
            if self.model.stop_training:
                break
        if position == len(pipeline) and pipeline.training:
            pipeline.set_epoch(pipeline.epoch + 1)
        logs = dict(self.model.get_metrics_result() if logs is None else logs)
        if self.validation is not None:
            logs.update({f"val_{name}": value for name, value in self._evaluate(self.validation).items()})
        self.callbacks.on_epoch_end(epoch, logs)
        return logs

    def _evaluate(self, validation: _Resident) -> dict[str, Any]:
        """The metrics on the validation set."""
        plan, steps = validation.plan(), len(validation.pipeline)
        self.callbacks.on_test_begin()
        self.model.reset_metrics()
        logs: dict[str, Any] = {}
        for first, last in self._blocks(0, steps):
            self.callbacks.on_test_batch_begin(first)
            logs = validation.run(plan, first, last)
            self.callbacks.on_test_batch_end(last - 1, logs)
        self.callbacks.on_test_end(logs)
        return logs

    def _blocks(self, position: int, steps: int) -> Iterator[tuple[int, int]]:
        """First and end position of each block from `position` on."""
        for first in range(position, steps, self.block):
            yield first, min(first + self.block, steps)
