"""Packages that import their parts when these are first used. Keras can still load the classes that they register.

The command line can then set what TensorFlow reads when it is imported, and answer `--help` without it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping


def attributes(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for a package (PEP 562).

    Args:
        package: The package's name.
        places: Name of an attribute -> the module that has it, or that it is.

    Returns:
        The function. What it has found once is an ordinary attribute of the package.
    """

    def __getattr__(name: str):
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(places[name])
        found = module if places[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, found)
        return found

    return __getattr__


def import_with_keras(package: str, modules: Iterable[str]) -> None:
    """Imports modules of a package as soon as Keras is imported, whoever imports it; now if it is already.

    Classes that they register with Keras are then known when a file is loaded after `import package`.

    Args:
        package: The package's name.
        modules: Full names of the modules.
    """
    if sys.modules.get("keras") is not None:
        _import(modules)
    else:
        sys.meta_path.insert(0, _WithKeras(package, modules))


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)


class Finder:
    """A finder of modules that finds what the others find, and runs it in another way.

    Subclasses define `wants` and `run`.
    """

    searching = False

    def wants(self, name: str) -> bool:
        """Whether a module, by its full name, is one of those."""
        raise NotImplementedError(f"{type(self).__name__} does not define `wants(name)`.")

    def run(self, execute: Callable, module) -> None:
        """Runs `execute(module)`, which imports it."""
        raise NotImplementedError(f"{type(self).__name__} does not define `run(execute, module)`.")

    def find_spec(self, name, path=None, target=None):
        """The specification of a module, by the other finders."""
        if self.searching or not self.wants(name):
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(self.run, spec.loader.exec_module)
        return spec


class _WithKeras(Finder):
    """Imports modules after Keras.

    A module of the package that imports Keras itself is half imported then. So it is the end of the outermost import
    that counts: of Keras, or of that module.
    """

    def __init__(self, package: str, modules: Iterable[str]):
        self.package, self.modules, self.depth = package, tuple(modules), 0

    def wants(self, name):
        """Keras, and the modules of the package."""
        return name == "keras" or name.startswith(f"{self.package}.")

    def run(self, execute, module):
        """Imports it, and at the end of the outermost import the modules."""
        self.depth += 1
        try:
            execute(module)
        finally:
            self.depth -= 1
        if not self.depth and sys.modules.get("keras") is not None and self in sys.meta_path:
            sys.meta_path.remove(self)
            _import(self.modules)
