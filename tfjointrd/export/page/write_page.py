"""Writes a page that classifies pictures in the browser."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfjointrd import files
from tfjointrd.export.class_names import labels_beside, read_labels
from tfjointrd.export.file_graph import with_batch_of_one
from tfjointrd.export.metadata import read_metadata
from tfjointrd.export.page import runtime as litertjs
from tfjointrd.export.page.describe import describe

STATIC = Path(__file__).parent / "static"
SETTINGS = "page.json"
_KIND = "tfjointrd page"
_FOLDERS = ("models", "runtime")


@dataclass(frozen=True)
class Page:
    """A page that was written.

    Attributes:
        folder: Its folder, which any web server can hand out.
        models: What the page knows of each file; see `tfjointrd.export.page.describe`.
        labels: Names of the classes.
    """

    folder: Path
    models: tuple[dict[str, Any], ...]
    labels: tuple[str, ...]

    def __str__(self) -> str:
        """A line for each file."""
        lines = [f"{self.folder / 'index.html'}: {len(self.labels)} classes, {', '.join(self.labels[:3])} ..."]
        for model in self.models:
            height, width, channels = model["input"]["shape"][1:]
            assumed = " (assumed; --pixel-range names another)" if model["range_is_assumed"] else ""
            lines.append(
                f"  {model['name']}: {model['bytes']:,} bytes, {height}x{width}x{channels}, pixels as "
                f"{model['pixels']['range']}{assumed}"
            )
        return "\n".join(lines)


def write_page(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    labels: str | os.PathLike | Sequence[str] | None = None,
    pixel_ranges: Sequence[str] = (),
    runtime: str | os.PathLike | None = None,
    cdn: bool = False,
) -> Page:
    """Writes a static page that classifies pictures with one file, or with two side by side.

    Pictures are chosen, taken by the camera or drawn, and stay in the browser. The page cuts out the centre and resizes
    it by a triangle filter in integers, as Pillow's `resize` with `BILINEAR` does: to the same bytes, but that Pillow
    13 resizes tall pictures in another order and may then differ by 1 of 255. It gives pixels to the file and reads
    its outputs as `TFLiteModel` does. It differs from `tfjointrd.data.load` in two points. That function cuts out the
    central 7/8 of a photograph's shorter side, where the page takes all of it, and it decodes large JPEG files at a
    part of their size.

    Args:
        paths: One or two `.tflite` files of networks that classify images, with the same number of classes. Their
            inputs and outputs are float32 or uint8.
        out: Folder to write. An earlier page there is replaced; a folder with other things in it is not touched.
        labels: Names of the classes; see `tfjointrd.export.class_names.read_labels`. By default those that the
            first file states, those of the data set that the `card.json` beside it names, or else numbers.
        pixel_ranges: The numbers that the networks take for pixels from 0 to 255, as `tfjointrd.pixel_ranges` names
            them: one for all files, or one for each. By default the files tell, or else 0 to 255.
        runtime: Where the runtime's npm packages are; see `tfjointrd.export.page.runtime.contents`. By default they are
            downloaded once.
        cdn: Whether the page loads the runtime from jsDelivr instead, by its version and hashes.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: If a file, the folder of `out` or the runtime is missing.
        FileExistsError: If `out` holds other things.
        ConnectionError: If the runtime cannot be downloaded.
        ValueError: If a file does not classify images, or arguments do not fit.
        OSError: If `out` cannot be written.

    Example:

    >>> page = write_page(["resnet20.tflite", "resnet20_int8.tflite"], "page", labels="cifar10", cdn=True)
    >>> page.labels[3]
    'cat'
    """
    if not 1 <= len(paths) <= 2:
        raise ValueError(f"Expected one or two .tflite files. Received: {len(paths)}")
    if len(pixel_ranges) not in (0, 1, len(paths)):
        raise ValueError(
            "Expected `pixel_ranges` for all files or one for each. "
            f"Received: {len(pixel_ranges)} for {len(paths)} files"
        )
    if cdn and runtime is not None:
        raise ValueError(f"Expected either `cdn` or `runtime`. Received: cdn=True, runtime='{runtime}'")
    ranges: list[Any] = list(pixel_ranges) * (len(paths) if len(pixel_ranges) == 1 else 1) or [None] * len(paths)
    out = _checked_folder(out)
    models = [describe(path, name) for path, name in zip(paths, ranges, strict=True)]
    names = _class_names(paths, models, labels)
    written = {}
    for number, (path, model, title) in enumerate(zip(paths, models, _titles(paths), strict=True), 1):
        url, content = f"models/{number}.tflite", with_batch_of_one(Path(path).read_bytes())
        model.update(name=title, url=url, integrity=litertjs.integrity(content))
        written[url] = content
    with files.replacing_folder(out) as part:
        own = {} if cdn else litertjs.contents(runtime)
        urls = litertjs.on_cdn() if cdn else {path: f"runtime/{path}" for path in litertjs.FILES}
        settings = {
            "kind": _KIND,
            "labels": names,
            "models": models,
            "runtime": {
                "version": litertjs.VERSION,
                "files": {path: {"url": urls[path], "integrity": litertjs.FILES[path]} for path in litertjs.FILES},
            },
        }
        written |= {path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()}
        written |= {urls[path]: data for path, data in own.items()}
        written[SETTINGS] = (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()
        for path, data in written.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            files.write(part / path, data)
    return Page(out, tuple(models), tuple(names))


def _class_names(paths, models: list[dict[str, Any]], labels) -> list[str]:
    counts = [model["output"]["shape"][-1] for model in models]
    if len(set(counts)) > 1:
        raise ValueError(
            "Expected files with the same classes. Received: "
            + " and ".join(f"'{os.fspath(path)}' with {count}" for path, count in zip(paths, counts, strict=True))
        )
    if labels is not None:
        return read_labels(labels, counts[0])
    stated = read_metadata(paths[0])
    in_file = list(stated.labels) if stated is not None and len(stated.labels) == counts[0] else None
    return in_file or labels_beside(paths[0], counts[0]) or [f"class {number}" for number in range(counts[0])]


def _titles(paths: Sequence[str | os.PathLike]) -> list[str]:
    """A name for each file, with its folder's if they are called the same."""
    names = [Path(path).stem for path in paths]
    if len(set(names)) == len(names):
        return names
    longer = ["/".join(Path(path).resolve().with_suffix("").parts[-2:]) for path in paths]
    return longer if len(set(longer)) == len(longer) else [f"{name} ({n})" for n, name in enumerate(names, 1)]


def _checked_folder(out: str | os.PathLike) -> Path:
    """The folder to write, which may be replaced."""
    out = Path(out).resolve()
    if out == Path.cwd():
        raise ValueError(f"Expected `out` to be another folder than the current one. Received: out='{out}'")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"Expected `out` to be a folder. Received: the file out='{out}'")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"Expected the folder of `out` to exist. Received: out='{out}'")
    others = _other_things(out) if out.is_dir() else []
    if others:
        raise FileExistsError(
            "Expected `out` to be a new folder, an empty one or an earlier page. Received: "
            f"out='{out}', which holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}"
        )
    return out


def _other_things(folder: Path) -> list[str]:
    """What a folder holds that no page has; all of it, if it is no page."""
    found = {entry.name for entry in folder.iterdir()}
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        known = {SETTINGS, *_FOLDERS, *(path.name for path in STATIC.iterdir())} if settings["kind"] == _KIND else set()
    except (OSError, ValueError, LookupError, TypeError):
        known = set()
    return sorted(found - known)
