"""One function a depth, made from a family's builder."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable


def depth_function(builder: Callable, depth: int, name: str) -> Callable:
    """`builder` with its first argument fixed, as a function with a name, a signature and documentation of its own.

    Args:
        builder: A family's builder; its first parameter is `depth`, and its documentation begins with the family's
            name.
        depth: The depth to fix.
        name: The new function's name.

    Returns:
        The function `name(...)` with the builder's other parameters.
    """
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args, **kwargs):
        return builder(depth, *args, **kwargs)

    del build.__wrapped__
    parameters = [parameter for key, parameter in signature.parameters.items() if key != "depth"]
    build.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    build.__annotations__ = {key: kind for key, kind in builder.__annotations__.items() if key != "depth"}
    build.__name__ = build.__qualname__ = name
    build.__doc__ = _documentation(builder, depth, name)
    return build


def _documentation(builder: Callable, depth: int, name: str) -> str:
    text = re.sub(r"^\w+", lambda family: f"{family[0]}-{depth}", builder.__doc__ or "")
    text = re.sub(r"^ *depth: .*\n", "", text, flags=re.MULTILINE)
    return re.sub(rf"\b{builder.__name__}\(\d+(, )?", f"{name}(", text)
