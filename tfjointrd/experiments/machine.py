"""What a training ran on: the machine, the versions of what it depends on, and its source."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import keras


def machine() -> dict[str, Any]:
    """The machine that this runs on: processor, cores, accelerators."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count() or "unknown",
    }
    accelerators = _accelerators()
    return {**found, "accelerators": ", ".join(accelerators)} if accelerators else found


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    backend = keras.backend.backend()
    found = {"python": platform.python_version(), "keras": keras.__version__, "backend": backend}
    for package in ("tfjointrd", backend, "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a checkout that is not installed
    return found


@functools.cache
def source() -> str:
    """A fingerprint of this package's source: 32 hexadecimal digits, of the names and contents of its Python files."""
    package = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(str(path.relative_to(package).as_posix()).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:32]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or 'unknown'} ({platform.machine()})"


def _accelerators() -> list[str]:
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in devices]
    return []
