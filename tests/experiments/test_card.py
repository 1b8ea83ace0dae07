"""Cards are checked when they are read, and merged only if they belong together."""

import copy
import json

import numpy as np
import pytest

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog

RECIPE = catalog.get("resnet20_digits", "smoke", seed=3)


def card(seed="3", **changes):
    fields = RECIPE.as_dict()
    fields.pop("seed")
    accuracy = {"model": {"keras": 0.5, "float32": 0.5, "int8": 0.49}}
    training = {
        "accuracy": accuracy,
        "history": [{"loss": 1.0, "val_accuracy": 0.5}],
        "seconds": 3.0,
        "finished": "2026-01-01T00:00:00+00:00",
        "machine": cards.machine(),
        "versions": cards.versions(),
    }
    network = {"parameters": 1, "macs": 2, "peak_activation_bytes": 3, "files": {"model.keras": 4}}
    made = {
        "schema": 1,
        "recipe": fields,
        "command": "python -m tfjointrd run resnet20_digits",
        "data": {"name": "digits", "note": "", "train_images": 512, "validation_images": 360},
        "networks": {"model": network},
        "seeds": {seed: training},
    }
    return copy.deepcopy({**made, **changes})


def test_written_and_read(tmp_path):
    cards.write(tmp_path, card())
    assert cards.read(tmp_path) == card() == cards.read(tmp_path, RECIPE)
    assert {"processor", "cores"} <= card()["seeds"]["3"]["machine"].keys()
    assert {"keras", "backend", "tensorflow", "tfjointrd"} <= card()["seeds"]["3"]["versions"].keys()


def test_an_unknown_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: None)
    cards.write(tmp_path, card())
    assert cards.read(tmp_path)["seeds"]["3"]["machine"]["cores"] == "unknown"


def without(part, *path):
    made = card()
    inner = made
    for name in path:
        inner = inner[name]
    del inner[part]
    return made


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Expected a card in JSON. Received: .*card.json"),
        ("[]", r"Expected a card of schema 1. Received: .*card.json of schema \[\]"),
        (card(schema=7), "Expected a card of schema 1. Received: .*card.json of schema 7"),
        (without("networks"), "the card: 'networks' is a required property"),
        (without("macs", "networks", "model"), "networks/model: 'macs' is a required property"),
        (without("history", "seeds", "3"), "seeds/3: 'history' is a required property"),
        (card(seeds={}), "where seeds: "),
        (card(extra=1), "extra"),
        (without("epochs", "recipe"), "where recipe: .*it lacks epochs"),
        (without("model", "seeds", "3", "accuracy"), r"where seeds/3/accuracy has \[\] instead of \['model'\]"),
    ],
)
def test_what_is_no_card(tmp_path, content, message):
    (tmp_path / "card.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        cards.read(tmp_path)


def test_cards_from_before_a_field_was_added(tmp_path):
    cards.write(tmp_path, without("image_size", "recipe"))
    assert cards.read(tmp_path, RECIPE) == card()
    older = card()
    assert older["recipe"].pop("initializer") == "he_normal"
    older["recipe"]["tail_floor"] = 0.005  # once allowed for all methods, and read by those with tails only
    cards.write(tmp_path, older)
    assert cards.read(tmp_path, RECIPE) == card()


def test_accuracies_are_fractions(tmp_path):
    made = card()
    made["seeds"]["3"]["accuracy"]["model"]["keras"] = 91.2
    cards.write(tmp_path, made)
    with pytest.raises(ValueError, match="seeds/3/accuracy/model/keras: 91.2 is greater than the maximum of 1"):
        cards.read(tmp_path)


def test_files_of_any_number_format(tmp_path):
    """Also of one that is registered where the card was made and not here."""
    made = card()
    made["seeds"]["3"]["accuracy"]["model"]["int4"] = 0.4
    cards.write(tmp_path, made)
    assert cards.read(tmp_path) == made
    made["seeds"]["3"]["accuracy"]["model"]["int4"] = "good"
    cards.write(tmp_path, made)
    with pytest.raises(ValueError, match="seeds/3/accuracy/model/int4: 'good' is not of type 'number'"):
        cards.read(tmp_path)


def test_batches_are_filled_up_so_that_a_prediction_is_traced_once():
    seen = []

    def predict(x):
        seen.append(len(x))
        return 2 * x

    filled, x = cards._in_equal_batches(predict, 4), np.arange(10.0)[:, None]
    found = np.concatenate([filled(x[start : start + 4]) for start in range(0, 10, 4)])
    np.testing.assert_array_equal(found, 2 * x)
    assert seen == [4, 4, 4]


def test_a_card_of_another_recipe(tmp_path):
    cards.write(tmp_path, card())
    with pytest.raises(ValueError, match="card of resnet20_digits at scale laptop. Received: .*epochs=3"):
        cards.read(tmp_path, catalog.get("resnet20_digits", "laptop"))
    with pytest.raises(FileNotFoundError, match="card.json"):
        cards.read(tmp_path / "nowhere")


def test_cards_of_other_images_are_not_merged():
    older, first, other = card("1"), card("2"), card("3")
    first["data"]["fingerprint"], other["data"]["fingerprint"] = "aaa", "bbb"
    assert cards.merge([older, first])["data"]["fingerprint"] == "aaa"
    with pytest.raises(ValueError, match="data with fingerprint='bbb' and fingerprint='aaa'"):
        cards.merge([older, first, other])


def test_merged_by_seed():
    merged = cards.merge([card("10"), card("9")])
    assert list(merged["seeds"]) == ["9", "10"]
    with pytest.raises(ValueError, match="Expected every seed once. Received: 3 twice"):
        cards.merge([card(), card()])
    other = card("4")
    other["recipe"]["epochs"] = 77
    with pytest.raises(ValueError, match="Received: recipe with epochs=77"):
        cards.merge([card(), other])
