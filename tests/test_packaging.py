"""What is installed: requirements, extras, and a wheel that works by itself."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tfjointrd import __version__, extras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_requirements_are_the_dependencies_and_extras():
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    listed = {line for line in lines if line}
    parts = re.fullmatch(r"tfjointrd\[(.*)\]", EXTRAS["all"][0])[1].split(",")
    assert set(parts) == EXTRAS.keys() - {"all", "test"}
    assert listed == {*PROJECT["dependencies"], *(package for part in parts for package in EXTRAS[part])}


def test_each_version_stands_once():
    assert PROJECT["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_missing_is_named(monkeypatch):
    assert set(extras.EXTRAS.values()) <= EXTRAS.keys()
    monkeypatch.setitem(sys.modules, "seaborn", None)
    with pytest.raises(ImportError, match=r"'seaborn'. Install it by `pip install 'tfjointrd\[plots\]'`. Received: "):
        extras.require("seaborn")


def test_a_wheel_works_by_itself(tmp_path):
    """It holds what is no Python, and its command answers before Keras is installed."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("tfjointrd-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tfjointrd/py.typed" in names and any(name.startswith("tfjointrd/export/page/static/") for name in names)
    assert not any(name.startswith(("tests", "notebooks", "docs")) for name in names)
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-compile", "--target", tmp_path / "installed", wheel], check=True
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); from tfjointrd.__main__ import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "python -m tfjointrd run RECIPE" in result.stdout
