"""Cards: what was trained, how, on what, and what came out, in a form that is checked when it is read."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import keras
import numpy as np

from tfjointrd import data, report
from tfjointrd.data.batches import accuracy
from tfjointrd.experiments.card_images import with_note
from tfjointrd.experiments.checkpoint_callback import State
from tfjointrd.experiments.machine import machine, source, versions
from tfjointrd.experiments.recipes import SCORED_ON, Recipe, from_stored
from tfjointrd.export import quantize
from tfjointrd.files import replacing, write_json

CARD, SCHEMA = "card.json", 1
# Why there is no file, where it can be written later.
_OTHER_BACKEND, _MISSING = "trained on the backend", "a package is missing"


def _object(properties: dict, optional: tuple[str, ...] = ()) -> dict:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _mapping(values: dict, names: str = ".+") -> dict:
    return {"type": "object", "patternProperties": {f"^{names}$": values}, "additionalProperties": False}


_OPTIONAL_OF_DATA = ("class_names", "fingerprint", "chosen_on", "scored_on")  # older cards lack them
_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
# Files are in any number format that was registered where they were made.
_ACCURACY = {"type": "object", "required": ["keras"], "additionalProperties": _FRACTION}
_NETWORK = _object(
    {
        "parameters": _COUNT,
        "macs": _COUNT,  # multiply-accumulates of one image
        "peak_activation_bytes": _COUNT,  # live memory: float32 activations of one image
        "files": _mapping(_COUNT),  # name -> bytes
        "not_exported": _mapping(_TEXT),  # form -> why there is no file
    },
    optional=("not_exported",),
)
_SEED = _object(
    {
        "accuracy": _mapping(_ACCURACY),  # network -> form -> top-1 on the validation images after the last epoch
        # metrics of each epoch, none where pruning was all; null for one that is not a finite number
        "history": {"type": "array", "items": _mapping({"type": ["number", "null"]})},
        "seconds": {"type": "number", "minimum": 0},  # of training
        "finished": _TEXT,
        "machine": _mapping({"type": ["string", "integer"]}),
        "versions": _mapping(_TEXT),
        "source": _TEXT,  # fingerprint of the package's source, see `source`
    },
    optional=("source",),
)
FORM = _object(
    {
        "schema": {"const": SCHEMA},
        "recipe": {"type": "object"},
        "command": _TEXT,
        "data": _object(
            {
                **{"name": _TEXT, "note": _TEXT, "train_images": _COUNT, "validation_images": _COUNT},
                "class_names": {"type": "array", "items": _TEXT},  # in the order of the outputs
                "fingerprint": _TEXT,  # of the images and labels in memory, see `tfjointrd.data.arrays.fingerprint`
                "chosen_on": {"enum": list(SCORED_ON)},  # the images that settings were chosen on
                "scored_on": {"enum": list(SCORED_ON)},  # the images that `accuracy` is of, `validation_images` of them
            },
            optional=_OPTIONAL_OF_DATA,
        ),
        "networks": _mapping(_NETWORK),
        "seeds": {**_mapping(_SEED, names="[0-9]+"), "minProperties": 1},
    }
)


def make(
    recipe: Recipe,
    networks: Mapping[str, keras.Model],
    train: data.Pipeline,
    validation: data.Pipeline,
    folder: Path,
    state: State,
    note: str = "",
    command: str = "",
    devices: int = 1,
    say: Callable[[str], None] = lambda text: None,
    compared: Mapping[str, str] | None = None,
) -> dict:
    """Writes the networks as files, measures them, and returns the card of a finished training.

    On the TensorFlow backend the networks are exported too, in the recipe's `formats`, and the files' accuracies
    measured.

    Args:
        recipe: What was trained.
        networks: The networks to deploy, by name.
        train: The training images; static formats are calibrated on them.
        validation: Images to measure accuracy on.
        folder: Where the files go.
        state: History and time of the training.
        note: What readers should know of the data.
        command: The command line to repeat it with.
        devices: Number of devices that trained together.
        say: Is told what is going on.
        compared: Networks that are not exported, and why.
    """
    entries, accuracies = {}, {}
    for number, (name, network) in enumerate(networks.items(), start=1):
        say(f"Writing and measuring network {name}, {number} of {len(networks)} ...")
        with replacing(folder / f"{name}.keras") as part:
            network.save(part)
        if compared and name in compared:
            exported, failed = {}, dict.fromkeys(recipe.formats, compared[name])
        else:
            exported, failed = export_files(network, name, folder, recipe.formats, train, validation)
        predict = _in_equal_batches(network.predict_on_batch, min(validation.batch_size, validation.size))
        accuracies[name] = {"keras": accuracy(predict, validation), **exported}
        entries[name] = {**costs_of(network), **files_of(folder, name, failed)}
    return {
        "schema": SCHEMA,
        "recipe": _without_seed(recipe),
        "command": command,
        "data": {
            "name": train.info.name,
            "note": with_note(note, train.info.note),
            "train_images": train.size,
            "validation_images": validation.size,
            **({"class_names": list(train.info.class_names)} if train.info.class_names else {}),
            **({"fingerprint": train.info.fingerprint} if train.info.fingerprint else {}),
            "chosen_on": "held_out" if recipe.held_out_for_validation else "test",
            "scored_on": recipe.scored_on,
        },
        "networks": entries,
        "seeds": {
            str(recipe.seed): {
                "accuracy": accuracies,
                "history": state.history,
                "seconds": round(state.seconds, 1),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": {**machine(), "devices": devices},
                "versions": versions(),
                "source": source(),
            }
        },
    }


def _in_equal_batches(predict: Callable, size: int) -> Callable:
    """A prediction that fills smaller batches up, so that it is traced and compiled once."""

    def filled(x):
        return predict(np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)]))[: len(x)]

    return lambda x: predict(x) if len(x) == size else filled(x)


def lacks_files(card: dict) -> bool:
    """Whether files are missing that another machine, or this one before, could not write for want of a package."""
    return keras.backend.backend() == "tensorflow" and any(map(_to_export, card["networks"].values()))


def _to_export(entry: Mapping) -> list[str]:
    """The formats that a network was not exported in because of the backend or a missing package."""
    later = (_OTHER_BACKEND, _MISSING)
    return [form for form, why in entry.get("not_exported", {}).items() if why.startswith(later)]


def add_files(
    card: dict, networks: Mapping[str, keras.Model], folder: Path, train: data.Pipeline, validation: data.Pipeline
) -> dict:
    """Exports the networks of a training in the formats that it lacked a package for; returns its card with them.

    Args:
        card: The card; of several seeds, files and networks are the first one's.
        networks: The networks by name.
        folder: Where the files go.
        train: The training images; static formats are calibrated on them.
        validation: Images to measure accuracy on.
    """
    card = copy.deepcopy(card)
    training = card["seeds"][min(card["seeds"], key=int)]
    for name in filter(lambda name: _to_export(card["networks"][name]), networks):
        entry = card["networks"][name]
        formats, others = _to_export(entry), entry.pop("not_exported")
        exported, failed = export_files(networks[name], name, folder, formats, train, validation)
        training["accuracy"][name].update(exported)
        failed = {form: failed.get(form, why) for form, why in others.items() if form in failed or form not in formats}
        entry.update(files_of(folder, name, failed))
    return card


def costs_of(network: keras.Model) -> dict[str, int]:
    """What a card says of what a network costs."""
    profile = report.profile(network)
    return {name: getattr(profile, name) for name in ("parameters", "macs", "peak_activation_bytes")}


def files_of(folder: Path, network: str, failed: dict[str, str]) -> dict:
    """A network's files and their sizes, and why others are missing."""
    sizes = {path.name: path.stat().st_size for path in network_files(folder, network)}
    return {"files": sizes, **({"not_exported": failed} if failed else {})}


def read(folder: str | os.PathLike, recipe: Recipe | None = None) -> dict:
    """Reads and checks a card.

    Args:
        folder: Folder with a `card.json`.
        recipe: The recipe that it should be of, whatever the seed.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it does not have the form of a card of this version, or is of another recipe.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(f"Expected a folder with a finished training ({CARD}). Received: folder='{folder}'.")
    try:
        card = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected a card in JSON. Received: {path} ({error}).") from None
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        found = card.get("schema") if isinstance(card, dict) else card
        raise ValueError(f"Expected a card of schema {SCHEMA}. Received: {path} of schema {found}.")
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(FORM).iter_errors(card))
    if wrong is not None:
        place = "/".join(str(part) for part in wrong.absolute_path) or "the card"
        raise ValueError(f"Expected a card of schema {SCHEMA}. Received: {path}, where {place}: {wrong.message[:300]}.")
    try:
        card["recipe"] = completed(card["recipe"])
    except ValueError as error:
        raise ValueError(f"Expected a card of schema {SCHEMA}. Received: {path}, where recipe: {error}") from None
    _check_names(card, path)
    if recipe is not None:
        differing = differences(card["recipe"], _without_seed(recipe))
        if differing:
            raise ValueError(
                f"Expected a card of {f'{recipe.name} at scale {recipe.scale}' if recipe.name else 'the same recipe'}. "
                f"Received: {path}, with {differing}. Choose another folder for another training."
            )
    return card


def completed(fields: Mapping) -> dict:
    """A stored recipe's fields as this version has them: without those that its method ignores, newer ones at defaults.

    Raises:
        ValueError: If they are not those of a recipe.
    """
    found = from_stored(fields).as_dict()
    return found if "seed" in fields else _without(found, "seed")


def _without_seed(recipe: Recipe) -> dict:
    return _without(recipe.as_dict(), "seed")


def _without(fields: Mapping, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


def _check_names(card: dict, path: Path) -> None:
    """What names something in another part of the card has to be right."""
    for seed, training in card["seeds"].items():
        found, expected = set(training["accuracy"]), set(card["networks"])
        if found != expected:
            raise ValueError(
                f"Expected a card of schema {SCHEMA}. Received: {path}, where seeds/{seed}/accuracy has "
                f"{sorted(found)} instead of {sorted(expected)}."
            )


def merge(cards: list[dict]) -> dict:
    """One card of several seeds; files, costs and the note are those of the first.

    Args:
        cards: Cards of the same recipe, one seed each.

    Raises:
        ValueError: If they are of different recipes or data, or a seed comes twice.
    """
    seeds: dict[str, dict] = {}
    known: dict[str, object] = {}  # what some cards say of the data, and older ones do not
    for card in cards:
        for name in _OPTIONAL_OF_DATA:
            if name in card["data"] and known.setdefault(name, card["data"][name]) != card["data"][name]:
                raise ValueError(
                    f"Expected cards of one recipe and one data set. Received: data with {name}={card['data'][name]!r} "
                    f"and {name}={known[name]!r}."
                )
        for part in ("recipe", "data"):
            left = {"note", *_OPTIONAL_OF_DATA} if part == "data" else set()
            own, first = (
                {key: value for key, value in one[part].items() if key not in left} for one in (card, cards[0])
            )
            differing = differences(own, first)
            if differing:
                raise ValueError(f"Expected cards of one recipe and one data set. Received: {part} with {differing}.")
        twice = seeds.keys() & card["seeds"].keys()
        if twice:
            raise ValueError(f"Expected every seed once. Received: {', '.join(sorted(twice))} twice.")
        seeds.update(card["seeds"])
    data = {**cards[0]["data"], **known}
    return {**cards[0], "data": data, "seeds": dict(sorted(seeds.items(), key=lambda item: int(item[0])))}


def write(folder: Path, card: dict) -> None:
    """Writes a card."""
    write_json(folder / CARD, card)


def differences(found: Mapping, expected: Mapping) -> str:
    """What `found` has otherwise than `expected`, for a message; empty if nothing."""
    keys = [*expected, *(key for key in found if key not in expected)]
    return ", ".join(f"{key}={found.get(key)!r}" for key in keys if found.get(key) != expected.get(key))


def network_files(folder: Path, network: str) -> list[Path]:
    """The files of a network that are there."""
    names = [f"{network}.keras", *(file_name(network, form) for form in forms())]
    return [folder / name for name in names if (folder / name).is_file()]


def forms() -> dict[str, str | None]:
    """The number formats that there are, and what `export.tflite(quantization=...)` takes for each."""
    return quantize.arguments()


def file_name(network: str, form: str) -> str:
    """What a network's file in a number format is called."""
    return f"{network}_{form}.tflite"


def export_files(
    network: keras.Model, name: str, folder: Path, formats: Iterable[str], train=None, validation=None
) -> tuple[dict, dict]:
    """Writes a network's files; a failure must not cost a finished training.

    Args:
        network: The network.
        name: Its name.
        folder: Where the files go.
        formats: Their number formats.
        train: Images to calibrate on, for formats that need some.
        validation: Images to measure accuracies on.

    Returns:
        Accuracies by format, none without images; and by format why there is no file.
    """
    formats = [kind for kind in formats if kind in forms()]
    if keras.backend.backend() != "tensorflow":
        return {}, dict.fromkeys(formats, f"{_OTHER_BACKEND} {keras.backend.backend()}")
    from tfjointrd import export

    accuracies, failed = {}, {}
    with tempfile.TemporaryDirectory() as saved:
        for kind in formats:
            path = folder / file_name(name, kind)
            try:
                export.tflite(network, path, forms()[kind], train, saved_model=saved)
                if validation is not None:
                    accuracies[kind] = export.accuracy(path, validation)
            except (ValueError, RuntimeError, ImportError) as error:
                path.unlink(missing_ok=True)
                failed[kind] = f"{_MISSING}: {error}" if isinstance(error, ImportError) else str(error)
                print(f"{name} was not exported as {kind}: {error}")
    return accuracies, failed
