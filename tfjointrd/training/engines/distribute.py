"""Training on several devices or machines. The weights equal those of one device that trains on the whole batch.

Two engines, both with `model.fit`:

- `mirrored`: the devices of one machine, on Keras' TensorFlow backend (`tf.distribute.MirroredStrategy`);
- `processes`: one process a machine, or one a device, on Keras' JAX backend (`keras.distribution.DataParallel`).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np

from tfjointrd.data.pipeline import Pipeline
from tfjointrd.data.process_share import Share

COORDINATOR, COUNT, INDEX = "TFJOINTRD_COORDINATOR", "TFJOINTRD_PROCESSES", "TFJOINTRD_PROCESS"


@dataclass(frozen=True)
class Single:
    """One process that trains on one device, as if nothing were distributed."""

    index: int = 0
    count: int = 1
    devices: int = 1
    chief: bool = True
    name: ClassVar[str] = ""

    def share(self, pipeline: Pipeline, drop_last: bool = False) -> Pipeline:
        """The pipeline as it is."""
        return pipeline

    def scope(self):
        """Nothing to enter."""
        return contextlib.nullcontext()

    def alone(self):
        """Nothing to leave."""
        return contextlib.nullcontext()

    def wait(self, why: str) -> None:
        """Nobody to wait for."""

    def same(self, numbers: Sequence[int]) -> bool:
        """Whether all processes give the same numbers: always."""
        return True


@dataclass(frozen=True)
class Processes:
    """The processes that train together on Keras' JAX backend; made by `processes`.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes.
        devices: Number of devices of all processes together.
    """

    index: int
    count: int
    devices: int
    distribution: Any = field(repr=False)
    name: ClassVar[str] = "processes"

    @property
    def chief(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def share(self, pipeline: Pipeline, drop_last: bool = False) -> Share:
        """The part of this process in every batch, for `fit` and `evaluate`. See `Share`."""
        return Share(pipeline, self.index, self.count, self.devices, drop_last)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Where networks are built and trained. `processes` opened it for good; here for symmetry with `mirrored`."""
        with self.distribution.scope():
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Where one process works by itself, for instance the chief on files and results.

        In here it may save networks that train together, and make copies that need no other process:
        `adjoined.small()`, or `keras.models.clone_model` with the weights set. On the networks themselves, `predict`
        and `evaluate` would wait for the others.
        """
        together = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(together)

    def wait(self, why: str) -> None:
        """Waits until all processes have come here.

        Args:
            why: What is waited for, the same in all processes.
        """
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(why)

    def same(self, numbers: Sequence[int]) -> bool:
        """Whether all processes give the same numbers as process 0. All have to ask."""
        from jax.experimental import multihost_utils

        ours = np.asarray(numbers, "int32")
        chiefs = np.asarray(multihost_utils.broadcast_one_to_all(ours))
        return not multihost_utils.process_allgather(np.array([not np.array_equal(ours, chiefs)])).any()


@dataclass(frozen=True)
class Mirrored(Single):
    """The devices of one machine that train together on Keras' TensorFlow backend; made by `mirrored`.

    Attributes:
        devices: Number of devices.
        strategy: The `tf.distribute.MirroredStrategy`.
    """

    strategy: Any = field(default=None, repr=False)
    name: ClassVar[str] = "mirrored"

    def share(self, pipeline: Pipeline, drop_last: bool = False) -> Share:
        """The whole batches, made to divide among the devices. See `Share`."""
        return Share(pipeline, 0, 1, self.devices, drop_last)

    def scope(self):
        """Where networks are built, compiled and trained."""
        return self.strategy.scope()


_started: Processes | None = None


def is_chief() -> bool:
    """Whether this process writes files: process 0, or the only one."""
    return _started is None or _started.chief


def mirrored(devices: Sequence[str] | None = None) -> Mirrored:
    """The devices of this machine, for training on the TensorFlow backend.

    Batch normalisations must be synchronised, so that statistics are those of the whole batch.
    `FusedBatchNormalization` is by itself, Keras' with `synchronized=True`; `JointRD` and `Adjoined` raise an error for
    others. Any network is changed by `tfjointrd.surgery.swap.with_fused_batch_normalization`. TensorFlow cannot
    compile a mirrored step with XLA: leave `jit_compile` out.

    Args:
        devices: Names such as `["GPU:0", "GPU:1"]`; by default all GPUs, or all logical CPUs where there is none.

    Returns:
        A `Mirrored`. With one device it trains on that one, after a warning.

    Raises:
        RuntimeError: On another backend.

    Example:

    >>> group = mirrored()
    >>> with group.scope():
    ...     network = with_fused_batch_normalization(tfjointrd.models.resnet20())
    ...     model = tfjointrd.adjoin(network)
    ...     model.compile("sgd")
    ...     history = model.fit(group.share(train), epochs=10)
    """
    _check_backend("tensorflow", "mirrored", "On JAX, `processes(count=1)` trains on all devices of one machine.")
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(devices)
    if strategy.num_replicas_in_sync == 1:
        message = "Expected several devices. Received: one; training on that one."
        warnings.warn(message, stacklevel=2)
    return Mirrored(devices=strategy.num_replicas_in_sync, strategy=strategy)


def processes(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    seed: int | None = None,
    timeout: int = 300,
    heartbeat: int = 100,
) -> Processes:
    """Joins the processes that train together, on the JAX backend; to be called before anything is computed.

    The same program runs once on each machine, or once for each device. Networks built afterwards are the same in every
    process, and `fit` keeps them so. Every process must call `fit` and `evaluate`, on its `share` of the data; only
    `is_chief()` should write files. If one process dies, the others end with an error: start all of them again from the
    last file.

    Args:
        coordinator: `"address:port"` of process 0, where the others find it; by default the environment variable
            `TFJOINTRD_COORDINATOR`.
        count: Number of processes; by default `TFJOINTRD_PROCESSES`. With 1, the devices of this machine alone.
        index: Number of this process, from 0; by default `TFJOINTRD_PROCESS`. Without all three, JAX looks for a
            cluster that it knows, such as Slurm, Open MPI or TPUs.
        seed: Seed of weights and random layers, as for `keras.utils.set_random_seed`. By default, one that process 0
            draws; a single process keeps its own.
        timeout: Seconds to wait for the other processes at the start.
        heartbeat: Seconds of silence after which another process counts as dead.

    Returns:
        A `Processes`.

    Raises:
        RuntimeError: On another backend, if something was computed before, or no cluster is found.
        TimeoutError: If the coordinator cannot be reached. (JAX aborts a process that waits for others in vain.)
        ValueError: For arguments that do not fit together.

    Example:

    >>> group = processes("10.0.0.1:5000", count=2, index=0)
    >>> model = tfjointrd.adjoin(network)
    >>> model.compile("sgd")
    >>> history = model.fit(group.share(train), epochs=10, verbose=2 if group.chief else 0)
    """
    global _started
    _check_backend("jax", "processes", "On TensorFlow, `mirrored()` trains on all devices of one machine.")
    coordinator = coordinator or os.environ.get(COORDINATOR)
    count = _number(count, "count", COUNT)
    index = _number(index, "index", INDEX)
    if _started is not None:
        raise RuntimeError(f"Expected `processes` to be called once. Received: a second call after {_started}.")
    if count == 1:
        coordinator, index = None, index or 0
    _check_arguments(coordinator, count, index)
    if count != 1:
        _join(coordinator, count, index, timeout, heartbeat)
    _seed(count, seed)
    import jax

    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    devices = len(keras.distribution.list_devices())
    _started = Processes(jax.process_index(), jax.process_count(), devices, distribution)
    return _started


def _check_backend(wanted: str, function: str, instead: str) -> None:
    if keras.backend.backend() != wanted:
        raise RuntimeError(
            f"Expected the backend '{wanted}' for `{function}`. Received: '{keras.backend.backend()}'. {instead}"
        )


def _number(value, argument: str, variable: str) -> int | None:
    """An argument, or the environment variable in its stead, as a whole number."""
    given = os.environ.get(variable) if value is None else value
    if given in (None, ""):
        return None
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"Expected `{argument}` or {variable} to be a number. Received: {given!r}") from None


def _check_arguments(coordinator: str | None, count: int | None, index: int | None) -> None:
    if count is not None and count < 1:
        raise ValueError(f"Expected `count` to be at least 1. Received: count={count}")
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(f"Expected `index` from 0 to {count - 1} for {count} processes. Received: index={index}")
    given = [coordinator, count, index]
    if count != 1 and None in given and given != [None] * 3:
        raise ValueError(
            "Expected `coordinator`, `count` and `index` together, or none of them on a cluster that JAX knows. "
            f"Received: coordinator={coordinator!r}, count={count}, index={index}"
        )
    host, _, port = (coordinator or "host:1").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"Expected `coordinator` as 'address:port'. Received: coordinator={coordinator!r}")


def _join(coordinator: str | None, count: int | None, index: int | None, timeout: int, heartbeat: int) -> None:
    """Starts JAX' runtime for several processes."""
    import jax

    if index and coordinator:
        timeout = _reach(coordinator, timeout)
    waiting = f"process {index} of {count} at {coordinator}" if coordinator else "a process of the cluster"
    notice = f"tfjointrd: {waiting} waited in vain for the others."
    last_words = threading.Timer(max(timeout - 1, 0), print, [notice], {"file": sys.stderr, "flush": True})
    last_words.daemon = True
    # Older versions know less; one that ends alone should not wait long for the others.
    patience = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": min(heartbeat, 30)}
    known = inspect.signature(jax.distributed.initialize).parameters
    patience = {name: seconds for name, seconds in patience.items() if name in known}
    last_words.start()
    try:
        jax.distributed.initialize(coordinator, count, index, initialization_timeout=timeout, **patience)
    except ValueError as error:
        raise RuntimeError(
            f"Expected {COORDINATOR}, {COUNT} and {INDEX}, or a cluster that JAX knows. Received: neither ({error})"
        ) from error
    except RuntimeError as error:
        if "before" not in str(error):
            raise RuntimeError(f"Process {index} of {count} could not join at {coordinator}: {error}") from error
        raise RuntimeError(f"Expected `processes` to be called before JAX computes. Received: {error}") from error
    finally:
        last_words.cancel()


def _reach(coordinator: str, timeout: int) -> int:
    """Waits for the coordinator to answer; returns the seconds that are left."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(1, end - time.monotonic())).close()
            return max(2, round(end - time.monotonic()))
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"Expected the coordinator, process 0, to answer at {coordinator} within {timeout} seconds. "
                    f"Received: {error}"
                ) from error
        time.sleep(0.2)


def _seed(count: int | None, seed: int | None) -> None:
    """The same random numbers in every process."""
    if seed is None and count != 1:
        from jax.experimental import multihost_utils

        seed = int(multihost_utils.broadcast_one_to_all(np.random.default_rng().integers(2**31, dtype="uint32")))
    if seed is not None:
        keras.utils.set_random_seed(seed)
