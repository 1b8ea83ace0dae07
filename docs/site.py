"""Collects the pages of the site: README, guides, notebooks and, from each package's `__all__`, the API reference.

    make docs

Files keep their places, so that links between them hold. Links to other files of the repository lead to its address.
MkDocs calls `on_page_markdown` for each page, and mkdocstrings `Examples` for each docstring.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

try:
    from griffe import Extension
except ImportError:  # which collecting the pages does without
    Extension = object

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
COPIED = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "saved_models/README.md"),
    *(
        "benchmarks/README.md",
        "benchmarks/quantization.md",
        "docs/*.md",
        "docs/*.svg",
        "docs/*.png",
        "notebooks/*.ipynb",
    ),
)
# What is documented, in the order of the site.
PACKAGES = (
    "",
    "surgery",
    "training",
    "training.distillers",
    "export",
    "report",
    "models",
    "data",
    "layers",
    "experiments",
)
LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
EXAMPLE = re.compile(r"^Example:\n\n(.*?)(?=^[A-Z][a-z ]+:\n    |\Z)", re.MULTILINE | re.DOTALL)


def package_file(package: str) -> Path:
    """The file of a package of tfjointrd."""
    return ROOT.joinpath("tfjointrd", *package.split(".") if package else ()) / "__init__.py"


def public_names(package: str) -> list[str]:
    """The names in a package's `__all__`, read without importing it."""
    for statement in ast.parse(package_file(package).read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__all__":
            return ast.literal_eval(statement.value)
    raise ValueError(f"Expected `__all__` in {package_file(package)}.")


def api_page(package: str) -> str:
    """The page of a package. A name that is a package has its own page, or is described where it comes from."""
    name = f"tfjointrd.{package}".rstrip(".")
    described = [f"::: {name}.{one}\n" for one in public_names(package) if not is_package(package, one)]
    return "\n".join(
        [f"# {name}\n", (ast.get_docstring(ast.parse(package_file(package).read_text())) or "") + "\n", *described]
    )


def is_package(package: str, name: str) -> bool:
    """Whether a name of a package is a package itself."""
    return (package_file(package).parent / name).is_dir() or name == "distillers"


def collect() -> None:
    """Writes all pages into build/pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in COPIED:
        for source in sorted(ROOT.glob(pattern)):
            target = PAGES / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (PAGES / "api").mkdir()
    for package in PACKAGES:
        (PAGES / "api" / f"{package or 'index'}.md").write_text(api_page(package))


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Lets links to files that are no pages lead to the repository."""
    place = Path(page.file.src_uri).parent

    def replaced(match: re.Match) -> str:
        target = (ROOT / place / match[2]).resolve()
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or files.get_file_from_path(target.relative_to(ROOT).as_posix()):
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"{match[1]}{config.repo_url}/{kind}/main/{target.relative_to(ROOT).as_posix()}{match[3] or ''})"

    return LINK.sub(replaced, markdown)


class Examples(Extension):
    """Shows the examples of docstrings as code: they stand under "Example:", without indentation."""

    def on_object(self, *, obj, **_) -> None:
        """Called for each class, function and module."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """A docstring whose example is a block of code."""
    return EXAMPLE.sub(lambda match: f"**Example**\n\n```pycon\n{match[1].strip()}\n```\n\n", docstring)


if __name__ == "__main__":
    collect()
