"""What is kept in saved_models is what its cards and its README say."""

from pathlib import Path

import keras
import pytest

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, run_named, zoo
from tfjointrd.experiments.run_by_name import LARGEST_FILE

ROOT = Path(__file__).parents[1]
STUDY, TRANSFER = ROOT / "saved_models" / "study", ROOT / "saved_models" / "transfer"
FOLDERS = sorted(path for path in (ROOT / "saved_models").iterdir() if path.is_dir() and path not in (STUDY, TRANSFER))
LARGEST = 25_000_000  # bytes of the folder


NETWORKS = ("resnet20", "plain_resnet20", "jointrd_ordinary_resnet20", "narrow_resnet20_a2", "an_resnet20_a2")


def test_the_tables_are_there():
    names = {path.name for path in FOLDERS if list(path.glob("*.keras"))}
    assert {f"{network}_cifar10" for network in NETWORKS} <= names


# Networks of cards that have no metric of their own: a teacher trained beside the student, and those before a pruning.
NOT_TRAINED = ("teacher", "unpruned", "pruned")


def metric_of(card, network):
    """The metric of a network in the history; a cohort's first network is the one that is kept."""
    path = {"model": "network1" if card["recipe"]["method"] == "narrow_cohort" else ""}.get(network, network)
    return f"val_{path}_accuracy".replace("__", "_")


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
        key = metric_of(card, name)
        if (card["recipe"]["method"], name) == ("search", "small"):  # recalibrated after the last epoch
            assert first["accuracy"][name]["keras"] > validated[key]
        elif name not in NOT_TRAINED:
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
            if name in NOT_TRAINED:
                continue
            last = training["history"][-1][metric_of(card, name)]
            if card["data"]["scored_on"] == "held_out":
                assert accuracy["keras"] == pytest.approx(last, abs=1e-6)
            else:  # other images
                assert accuracy["keras"] == pytest.approx(last, abs=0.04)


@pytest.mark.parametrize("folder", sorted(TRANSFER.iterdir()), ids=lambda path: path.name)
def test_cards_of_transfers_begin_with_networks_that_are_here(folder):
    card = cards.read(folder)
    assert card["recipe"]["method"] == "transfer" and (ROOT / card["recipe"]["network"]).is_file()
    (training,) = card["seeds"].values()
    last = training["history"][-1]["val_accuracy"]
    assert training["accuracy"]["model"]["keras"] == pytest.approx(last, abs=1e-6) and training["source"]
    assert len(training["history"]) == card["recipe"]["epochs"]


def test_the_readme_is_what_the_command_prints():
    """`python -m tfjointrd tables --zoo > saved_models/README.md`."""
    assert (ROOT / "saved_models" / "README.md").read_text() == zoo.text(ROOT / "saved_models")


def test_the_folder_stays_small():
    assert sum(path.stat().st_size for path in (ROOT / "saved_models").rglob("*") if path.is_file()) < LARGEST


def test_a_finished_recipe_is_loaded_from_there():
    name, scale = "jointrd_resnet20_cifar10", "laptop"
    finished = run_named(name, scale, ROOT / "saved_models")
    assert finished.networks["model"].name and finished.card == cards.read(ROOT / "saved_models" / name)
