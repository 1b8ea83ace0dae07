"""The runtime that runs `.tflite` files in browsers: Google's LiteRT.js from the npm registry, pinned by its hashes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tfjointrd import files

VERSION = "2.5.3"
# What npm calls the integrity of each package's tarball.
PACKAGES = {
    "core": "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "wasm-utils": "sha512-4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
}
# What the page needs of them. Browsers without relaxed SIMD instructions take the files named "compat".
_SHA384 = {
    "core/dist/index.js": "MapSVJ/DPwvaWpp7q+Bid9O3uY1oB0KOU1QRMP+Mm5zdz5oMme/BUyX6dVAMWnPg",
    "core/wasm/litert_wasm_compat_internal.js": "oh4nb8zDq6eVOpGeZE5gwDOJ16QujHLL8k/HEXt3XiPxr+8zn3YnkXP8P3BlJET1",
    "core/wasm/litert_wasm_compat_internal.wasm": "glAZ6WjS7tLRt89pbTPXvLC1c7DCaVSfL2ngn5gZJiUuPs76fWYJy7ZeFaD0PJXx",
    "core/wasm/litert_wasm_internal.js": "NB/Wc4iozynQO5jzJ2VFoMKbqMvwwFGWxJL/o63IJT6W2JfZbsSLxA2cF6H/mLpQ",
    "core/wasm/litert_wasm_internal.wasm": "AZ/Ak4CbDpjqpSr8WsnoL3Dcx6bDFA/k9b/jahok1TGHZ2OqIRjLBMiEmiNedhlC",
    "wasm-utils/dist/index.js": "HIPwlWsctS5BRqrnvJKDVJ8SvqKB0QmiImdr6+hpP7+8UqeMJX/qrBkdfKQV2WZ/",
}
FILES = {path: f"sha384-{digest}" for path, digest in _SHA384.items()}
DEFAULT_REGISTRY = "https://registry.npmjs.org"
CDN = "https://cdn.jsdelivr.net/npm"
_TIMEOUT = 60
_PACK = " ".join(f"@litertjs/{name}@{VERSION}" for name in PACKAGES)
_ADVICE = f"`npm pack {_PACK}` writes what `--runtime` takes; `--cdn` needs nothing now and the network later"


def integrity(content: bytes, algorithm: str = "sha384") -> str:
    """The hash of some content as browsers and npm write it: the algorithm, `-`, and base64."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


def on_cdn() -> dict[str, str]:
    """Where each of `FILES` lies on the network jsDelivr, which hands out what is on npm."""
    parts = {path: path.partition("/") for path in FILES}
    return {path: f"{CDN}/@litertjs/{package}@{VERSION}/{rest}" for path, (package, _, rest) in parts.items()}


def contents(source: str | os.PathLike | None = None) -> dict[str, bytes]:
    """The content of each of `FILES`.

    Args:
        source: Where the packages are: a folder with both tarballs, as `npm pack` writes them, the tarball of the
            package `core` with the other one beside it, or a folder with `node_modules` in it, or that one. By default
            they are taken from the user's cache folder, and, the first time, from the npm registry, which
            `NPM_CONFIG_REGISTRY` names.

    Raises:
        FileNotFoundError: If `source` holds no such packages.
        ConnectionError: If the registry cannot be reached.
        ValueError: If one of them has another hash than the pinned one.
    """
    if source is None:
        found = _unpacked({package: _cached_or_downloaded(package) for package in PACKAGES})
    else:
        found = _from_disk(Path(source))
    for path, expected in FILES.items():
        if path not in found or integrity(found[path]) != expected:
            wrong = "another content" if path in found else "no such file"
            raise ValueError(
                f"Expected {path} of @litertjs {VERSION}, {expected}. Received: {wrong} in runtime='{source}'. "
                + _ADVICE
            )
    return found


def tarball(package: str) -> str:
    """The name that `npm pack` gives a package's tarball."""
    return f"litertjs-{package}-{VERSION}.tgz"


def cache_folder() -> Path:
    """Where tarballs are kept for the next page: the user's folder for such files."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tfjointrd" / "litertjs"


def _from_disk(source: Path) -> dict[str, bytes]:
    folder = source if source.is_dir() else source.parent
    tarballs = {package: folder / tarball(package) for package in PACKAGES}
    if source.is_file():
        tarballs["core"] = source
    if all(path.is_file() for path in tarballs.values()):
        return _unpacked({package: _checked(package, path.read_bytes(), path) for package, path in tarballs.items()})
    for modules in (source / "node_modules" / "@litertjs", source / "@litertjs"):
        if modules.is_dir():
            return {path: (modules / path).read_bytes() for path in FILES if (modules / path).is_file()}
    raise FileNotFoundError(
        f"Expected `runtime` to be a folder with {' and '.join(map(tarball, PACKAGES))}, the first of these files, "
        f"with the second beside it, or a folder with node_modules/@litertjs. Received: runtime='{source}'. {_ADVICE}"
    )


def _unpacked(tarballs: dict[str, bytes]) -> dict[str, bytes]:
    """The files of `FILES` in tarballs, which hold all under the folder `package`."""
    found = {}
    for package, content in tarballs.items():
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                path = member.name.replace("package/", f"{package}/", 1)
                stored = archive.extractfile(member) if path in FILES and member.isfile() else None
                if stored is not None:
                    found[path] = stored.read()
    return found


def _cached_or_downloaded(package: str) -> bytes:
    kept = cache_folder() / tarball(package)
    with contextlib.suppress(OSError):
        content = kept.read_bytes()
        if integrity(content, "sha512") == PACKAGES[package]:
            return content
    content = _downloaded(package)
    with contextlib.suppress(OSError):  # the page needs no cache
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write(kept, content)
    return content


def _downloaded(package: str) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry")  # noqa: SIM112
    registry = registry or DEFAULT_REGISTRY
    host = urlsplit(registry).hostname  # without the password that an address may hold
    if not registry.startswith(("https://", "http://")):
        raise ValueError(
            "Expected NPM_CONFIG_REGISTRY to be an address that begins with https://. "
            f"Received: NPM_CONFIG_REGISTRY='{registry}'"
        )
    url = f"{registry.rstrip('/')}/@litertjs/{package}/-/{package}-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read()
    except OSError as error:  # urllib's own are of this kind
        raise ConnectionError(
            f"Expected the npm registry to deliver @litertjs/{package} {VERSION}, since the cache {cache_folder()} "
            f"does not hold it. Received from {host}: {getattr(error, 'reason', None) or error}. {_ADVICE}"
        ) from error
    return _checked(package, content, host)


def _checked(package: str, content: bytes, source: object) -> bytes:
    received = integrity(content, "sha512")
    if received != PACKAGES[package]:
        raise ValueError(
            f"Expected the tarball of @litertjs/{package} {VERSION}, {PACKAGES[package]}. Received: {received} from "
            f"{source}. {_ADVICE}"
        )
    return content
