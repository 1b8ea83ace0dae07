"""Ways to distil, for `tfjointrd.Distillation` and `tfjointrd.JointRD`: one class a paper, by which methods add up."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from tfjointrd.training.distillers.at import AT
from tfjointrd.training.distillers.cc import CC
from tfjointrd.training.distillers.distiller import Distiller, LayerDistiller, OutputDistiller
from tfjointrd.training.distillers.dkd import DKD
from tfjointrd.training.distillers.fitnets import FitNets
from tfjointrd.training.distillers.ft import FT
from tfjointrd.training.distillers.kd import KD
from tfjointrd.training.distillers.keras_loss import KerasLoss, is_keras_loss
from tfjointrd.training.distillers.overhaul import Overhaul
from tfjointrd.training.distillers.peers import DML, KDCL, PeerDistiller
from tfjointrd.training.distillers.review_kd import ReviewKD
from tfjointrd.training.distillers.rkd import RKD
from tfjointrd.training.distillers.taps import by_name, embedding, last_map, stage_ends
from tfjointrd.training.distillers.vid import VID

# The methods by the names under which `methods=["kd"]`, recipes and the command line know them.
METHODS: dict[str, type[Distiller]] = {
    "kd": KD,
    "dkd": DKD,
    "fitnets": FitNets,
    "at": AT,
    "rkd": RKD,
    "cc": CC,
    "vid": VID,
    "ft": FT,
    "review_kd": ReviewKD,
    "overhaul": Overhaul,
}

# Those of cohorts, in which networks teach each other.
PEER_METHODS: dict[str, type[PeerDistiller]] = {"dml": DML, "kdcl": KDCL}

__all__ = [
    "METHODS",
    "PEER_METHODS",
    "AT",
    "CC",
    "DKD",
    "DML",
    "Distiller",
    "FT",
    "FitNets",
    "KD",
    "KDCL",
    "KerasLoss",
    "LayerDistiller",
    "OutputDistiller",
    "Overhaul",
    "PeerDistiller",
    "RKD",
    "ReviewKD",
    "VID",
    "as_distillers",
    "by_name",
    "embedding",
    "get",
    "last_map",
    "name_and_options",
    "stage_ends",
]


def get(name: str, **options: Any) -> Distiller:
    """A method by its name.

    Args:
        name: One of `METHODS`. Numbers may stand behind it, as recipes and the command line give them:
            `"dkd:others_weight=2,temperature=4"`.
        **options: Its arguments, in place of the paper's.

    Raises:
        ValueError: If there is none, in which case the message names the nearest ones, or it has no such argument.

    Example:

    >>> get("kd", temperature=2.0).temperature
    2.0
    >>> get("kd:temperature=2").temperature
    2
    """
    name, given = name_and_options(name)
    options = {**given, **options}
    if name in PEER_METHODS:
        raise ValueError(
            f"Expected a method by which a teacher trains a student, one of {', '.join(METHODS)}. Received: '{name}', "
            f"which trains a cohort: `tfjointrd.Cohort(networks, '{name}')`."
        )
    if name not in METHODS:
        near = difflib.get_close_matches(str(name).lower(), METHODS, n=2, cutoff=0.4)
        raise ValueError(
            f"Expected the name of a method, one of {', '.join(METHODS)}. Received: {name!r}."
            + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    known = list(inspect.signature(METHODS[name]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"Expected arguments of '{name}', which are {', '.join(known)}. Received: '{unknown[0]}'.")
    return METHODS[name](**options)


def name_and_options(text: str) -> tuple[str, dict[str, float]]:
    """A method's name and the numbers behind it: `"dkd:others_weight=2"` is `("dkd", {"others_weight": 2})`.

    Raises:
        ValueError: If what stands behind the name is not of the form `argument=number`.
    """
    name, _, rest = str(text).partition(":")
    options = {}
    for part in rest.split(",") if rest else ():
        argument, _, value = part.partition("=")
        try:
            options[argument.strip()] = float(value) if not value.strip().isdigit() else int(value)
        except ValueError:
            raise ValueError(
                f"Expected a method's name and numbers, as 'dkd:others_weight=2,temperature=4'. Received: {text!r}."
            ) from None
    return name, options


def as_distillers(methods: Sequence | str | Distiller) -> list[Distiller]:
    """Methods as distillers: these themselves, names of methods, or losses of `keras.distillation`.

    Args:
        methods: One or several.

    Raises:
        ValueError: If one is none of these, is given twice, or belongs to a training already.
    """
    given = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    found = []
    for method in given:
        if isinstance(method, str):
            method = get(method)
        elif is_keras_loss(method):
            method = KerasLoss(method)
        if not isinstance(method, Distiller):
            hint = " (`alpha` of earlier versions is `KD(weight=...)`.)" if isinstance(method, (int, float)) else ""
            raise ValueError(
                "Expected `methods` to list methods such as `tfjointrd.distillers.KD()`, names of methods, or losses "
                f"of `keras.distillation`. Received: {method!r}.{hint}"
            )
        if method.built or any(method is other for other in found):
            raise ValueError(
                f"Expected new methods. Received: '{method.name}', which is given twice or belongs to a training."
            )
        found.append(method)
    return found
