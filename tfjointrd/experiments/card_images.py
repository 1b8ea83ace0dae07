"""Which images a training saw, by its card."""

from __future__ import annotations

from collections.abc import Mapping

from tfjointrd.data.information import COPIES, IMAGENET_STATISTICS, KNOWN

_OF_SETS = {"", IMAGENET_STATISTICS, *(known.note for known in KNOWN.values())}


def set_of(card: Mapping) -> str:
    """The set's name, or that of a copy of it."""
    data = card["data"]
    return COPIES.get(data.get("fingerprint", "")) or _copy(data["note"]) or data["name"]


def images_of(card: Mapping) -> str:
    """As `set_of`, with the images' size where they came in another than their own."""
    size = card["recipe"].get("image_size")
    return f"{set_of(card)} at {size} pixels" if size else set_of(card)


def description(card: Mapping) -> str:
    """As `images_of`, with what the user's `--note` says."""
    note = card["data"]["note"]
    said = note.removeprefix(_copy(note)).strip(" .;") if note not in _OF_SETS else ""
    return ", ".join([images_of(card), *([said] if said else [])])


def same_images(card: Mapping, other: Mapping) -> bool:
    """Whether two trainings saw the same images, so that their accuracies can be compared.

    Cards of sets in memory have a fingerprint. Where one of the two has none, names and notes tell.
    """
    prints = {one["data"].get("fingerprint") for one in (card, other)}
    if None in prints:
        return images_of(card) == images_of(other)
    return len(prints) == 1 and card["recipe"].get("image_size") == other["recipe"].get("image_size")


def with_note(note: str, of_the_set: str) -> str:
    """What a card notes of its images: the user's note, behind the name of the copy if they are one."""
    copy = _copy(of_the_set)
    return f"{copy}; {note}" if copy and note and not note.startswith(copy) else note or of_the_set


def _copy(note: str) -> str:
    return next((name for name in COPIES.values() if note.startswith(name)), "")
