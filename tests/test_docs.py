"""The pages of the site: each public name is described, each link leads somewhere, examples run."""

import importlib.util
import re
from pathlib import Path

import pytest
from test_readme import examples

import tfjointrd

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("site_of_docs", ROOT / "docs" / "site.py")
site = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(site)


def test_every_package_has_a_page_and_every_name_is_on_it():
    packages = {path.parent.name for path in (ROOT / "tfjointrd").glob("*/__init__.py")}
    assert packages == {package for package in site.PACKAGES if package and "." not in package}
    for package in site.PACKAGES:
        module = importlib.import_module(f"tfjointrd.{package}".rstrip("."))
        described = re.findall(r"^::: tfjointrd\.(\S+)$", site.api_page(package), re.MULTILINE)
        elsewhere = {name for name in module.__all__ if site.is_package(package, name)}
        assert {name.rpartition(".")[2] for name in described} | elsewhere == set(module.__all__)
        assert elsewhere <= {page.rpartition(".")[2] for page in site.PACKAGES}
    assert set(tfjointrd.__all__) >= {"prune", "adjoin"}


@pytest.mark.parametrize(
    "page", [path for pattern in site.COPIED for path in ROOT.glob(pattern) if path.suffix == ".md"]
)
def test_links(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for _, target, _ in site.LINK.findall(text):
        generated = re.fullmatch(r"(?:\.\./)?api/(\S+)\.md", target)
        assert (page.parent / target).exists() or generated and generated[1] in site.PACKAGES, target


def test_a_link_to_code_leads_to_the_repository():
    class Page:
        class file:
            src_uri = "docs/recipes.md"

    class Config:
        repo_url = "https://example.com/repository"

    class Files:
        @staticmethod
        def get_file_from_path(path):
            return path.endswith(".md")

    text = "[a](methods.md) [b](../tfjointrd/files.py) [c](../saved_models) [d](https://example.com)"
    assert site.on_page_markdown(text, Page, Config, Files) == (
        "[a](methods.md) [b](https://example.com/repository/blob/main/tfjointrd/files.py) "
        "[c](https://example.com/repository/tree/main/saved_models) [d](https://example.com)"
    )


def test_examples_of_docstrings_are_code():
    before = "What it does.\n\nExample:\n\n>>> f(1)\n2\n\nReference:\n    A paper."
    assert site.fenced(before) == (
        "What it does.\n\n**Example**\n\n```pycon\n>>> f(1)\n2\n```\n\nReference:\n    A paper."
    )


def test_layers_of_ones_own(capsys):
    names = {}
    for code in examples("docs/own_layers.md"):
        exec(code, names)
    assert capsys.readouterr().out == "8\n"
    assert names["jrd"].report.profile(names["small"]).macs < 8 * 8 * (27 * 16 + 16 * 16) / 2
