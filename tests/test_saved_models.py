"""What is kept in saved_models is what its cards and its README say."""

from pathlib import Path

import keras
import pytest

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, run_named
from tfjointrd.experiments.run_by_name import LARGEST_FILE

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "saved_models" / "study"
FOLDERS = sorted(path for path in (ROOT / "saved_models").iterdir() if path.is_dir() and path != STUDY)


NETWORKS = ("resnet20", "plain_resnet20", "jointrd_ordinary_resnet20", "narrow_resnet20_a2", "an_resnet20_a2")


def test_the_tables_are_there():
    names = {path.name for path in FOLDERS if list(path.glob("*.keras"))}
    assert {f"{network}_cifar10" for network in NETWORKS} <= names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_cards_fit_recipes_files_and_networks(folder):
    scale = cards.read(folder)["recipe"]["scale"]
    card = cards.read(folder, catalog.get(folder.name, scale))
    first = card["seeds"][min(card["seeds"], key=int)]
    assert len(first["history"]) == card["recipe"]["epochs"]
    assert "JPEG" in card["data"]["note"] or card["recipe"]["data"] != "cifar10"
    for name, entry in card["networks"].items():
        found = {path.name: path.stat().st_size for path in cards.network_files(folder, name)}
        validated = {key: value for key, value in first["history"][-1].items() if key.startswith("val_")}
        key = "val_accuracy" if name == "model" else f"val_{name}_accuracy"
        if (card["recipe"]["method"], name) == ("search", "small"):  # recalibrated after the last epoch
            assert first["accuracy"][name]["keras"] > validated[key]
        elif name != "teacher":  # one that was trained beside the student has no metric of its own
            assert first["accuracy"][name]["keras"] == pytest.approx(validated[key], abs=1e-6)
        if not found:
            continue  # of some trainings the card alone is kept
        assert found == {file: size for file, size in entry["files"].items() if size < LARGEST_FILE}
        network = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        assert network.count_params() == entry["parameters"]
    assert set(first["accuracy"]) == set(card["networks"])


@pytest.mark.parametrize("folder", sorted(STUDY.iterdir()), ids=lambda path: path.name)
def test_cards_of_the_study_are_those_of_its_recipes(folder):
    card = cards.read(folder, catalog.get(folder.name, "study"))
    assert card["data"]["note"] == "CIFAR-10 (JPEG q75 copy)" and len(card["data"]["fingerprint"]) == 32
    assert card["data"]["chosen_on"] == "held_out"
    for training in card["seeds"].values():
        assert len(training["history"]) == card["recipe"]["epochs"] and training["source"]
        for name, accuracy in training["accuracy"].items():
            last = training["history"][-1]["val_accuracy" if name == "model" else f"val_{name}_accuracy"]
            if card["data"]["scored_on"] == "held_out":
                assert accuracy["keras"] == pytest.approx(last, abs=1e-6)
            else:  # other images
                assert accuracy["keras"] == pytest.approx(last, abs=0.04)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_readme_says_the_same(folder):
    card = cards.read(folder)
    readme = (ROOT / "saved_models" / "README.md").read_text().splitlines()
    for name, entry in card["networks"].items():
        title = folder.name + ("" if name == "model" else f" {name}")
        (row,) = [line for line in readme if line.split("|")[1:2] and line.split("|")[1].strip() == title]
        cells = [cell.strip() for cell in row.split("|")[2:]]
        accuracies = [training["accuracy"][name] for training in card["seeds"].values()]
        mean = sum(accuracy["keras"] for accuracy in accuracies) / len(accuracies)
        first = accuracies[0]
        assert cells[:3] == [f"{100 * value:.2f}" for value in (mean, first["float32"], first["int8"])]
        assert cells[3] == f"{entry['parameters']:,}" and cells[4] == f"{entry['macs'] / 1e6:.2f}"


def test_a_finished_recipe_is_loaded_from_there():
    name, scale = "jointrd_resnet20_cifar10", "laptop"
    finished = run_named(name, scale, ROOT / "saved_models")
    assert finished.networks["model"].name and finished.card == cards.read(ROOT / "saved_models" / name)
