"""The recipes that have a name, as a list or, where there are many, in groups."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from tfjointrd.experiments import catalog

WIDTH = 100  # of a line
MOST = 60  # that are listed one by one unless all are asked for


def text(pattern: str = "*", out: str | PathLike = "runs", every: bool = False, quiet: bool = False) -> str:
    """The recipes whose names match, and how far they are in a folder.

    Args:
        pattern: A shell pattern.
        out: Folder of the trainings.
        every: Whether to list all of them, however many. Otherwise more than 60 are grouped.
        quiet: Whether to leave out what explains the groups.

    Raises:
        ValueError: If there are none.
    """
    names = catalog.names(pattern)
    if not names:
        raise ValueError(f"Expected `pattern` to match a recipe. Received: pattern='{pattern}'.")
    if every or len(names) <= MOST:
        return "\n".join(_listed(names, _states(names, out)))
    return "\n".join(_grouped(names, _states(names, out), out, quiet))


def _states(names: Iterable[str], out: str | PathLike) -> dict[str, str]:
    """How far each is, of those of which there is anything in the folder."""
    begun = [name for name in names if (Path(out) / name).is_dir()]
    if not begun:
        return {}
    from tfjointrd.experiments.run_by_name import state  # which needs Keras

    return {name: found for name in begun if (found := state(name, out))}


def _listed(names: Sequence[str], states: dict[str, str]) -> list[str]:
    width = max(map(len, names))
    return [f"{name:{width}}  {states.get(name, '')}".rstrip() for name in names]


def _grouped(names: Sequence[str], states: dict[str, str], out: str | PathLike, quiet: bool) -> list[str]:
    networks: dict[str, dict[str, int]] = {}  # data -> network -> number of recipes
    methods: dict[str, dict[str, None]] = {}  # method -> what may follow the network
    for name in names:
        network, data = catalog.network_and_data(name)
        counts = networks.setdefault(data, {})
        counts[network] = counts.get(network, 0) + 1
        before, _, after = name.removesuffix(f"_{data}").partition(network)
        methods.setdefault(before.removesuffix("_"), {})[after] = None
    lines = [f"{len(names)} recipes, by data and network:", ""]
    width = max(map(len, networks))
    for data, counts in networks.items():
        each = ", ".join(f"{network}~({count})" for network, count in counts.items())  # one word for `wrap`
        wrapped = textwrap.wrap(f"{data:{width}}  {each}", WIDTH, subsequent_indent=" " * (width + 2))
        lines += [line.replace("~", " ") for line in wrapped]
    lines += ["", "How they are called:"]
    forms: dict[str, list[str]] = {}
    for method, options in methods.items():
        form = f"{'METHOD_' if method else ''}NETWORK{_either(options)}_DATA"
        forms.setdefault(form, []).extend([method] if method else [])
    for form, found in forms.items():
        lines.append(f"  {form}")
        lines += textwrap.wrap(", ".join(found), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if states:
        lines += ["", f"Begun in {out}:", *_listed(list(states), states)]
    if not quiet:
        example = "*_{}_{}".format(*catalog.network_and_data(names[0]))
        lines += ["", f'`python -m tfjointrd recipes "{example}"` lists those of a network, `--all` lists each.']
    return lines


def _either(options: Iterable[str]) -> str:
    several = list(options)
    return several[0] if len(several) == 1 else f"{{{','.join(several)}}}"
