"""docs/networks.md says what works with each family of keras.applications, and says it rightly."""

import importlib.util
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("networks_benchmark", ROOT / "benchmarks" / "networks.py")
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)
ROWS = networks.read_table(networks.TABLE.read_text())
NO = "**no**"


def family(name):
    """The file of Keras that a network of keras.applications is in."""
    return getattr(keras.applications, name).__module__


def test_all_families_are_in_the_table():
    everything = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
    assert {family(name) for name in everything} == {family(name) for name in ROWS if not name.startswith("hub.")}
    assert {name.removeprefix("hub.") for name in ROWS if name.startswith("hub.")} == set(networks.BACKBONES)
    assert list(ROWS) == list(networks.known())
    for cells in ROWS.values():
        assert len(cells) == len(networks.HEADER) and all(cells)


def test_a_network_that_takes_nothing_is_told_from_one_that_does(monkeypatch, tmp_path):
    """The columns look at what comes out, and the file holds what they say."""
    table = tmp_path / "networks.md"
    table.write_text(f"# Networks\n\n{networks.START}\n\n{networks.END}\n\nAnd so on.\n")
    monkeypatch.setattr(networks, "TABLE", table)
    cells = networks.row("VGG16", broken)
    assert cells[:2] == ["VGG16", "8"] and cells[2].startswith(f"{NO}: Layer 'whole' is a Lambda")
    assert cells[3] == cells[4] == "no additions" and cells[7].startswith(f"{NO}: as ")
    networks.write_table({"VGG16": cells})
    assert networks.read_table(table.read_text()) == {"VGG16": cells} and table.read_text().endswith("And so on.\n")


def broken():
    """A network with a function that surgery cannot look into."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Lambda(lambda x: x, name="whole")(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.slow
def test_mobilenet_as_the_table_says():
    """A narrow one of the family; the figures are those of the whole one."""

    def make():
        options = {"weights": None, "classes": 3, "classifier_activation": None, "alpha": 0.25}
        return keras.applications.MobileNet((32, 32, 3), **options)

    for found, listed in zip(networks.row("MobileNet", make)[2:], ROWS["MobileNet"][2:], strict=True):
        assert found.startswith(NO) == listed.startswith(NO), found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if networks.has_hub() or not name.startswith("hub.")])
def test_the_table_is_reproduced(name):
    assert networks.row(name, networks.known()[name]) == ROWS[name]
