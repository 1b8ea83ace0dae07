"""What cards of registered recipes say, over their seeds, and what is said where there is none."""

import pytest

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.run_folder import Run
from tfjointrd.experiments.table import Row, markdown, measure, outcome_table, outcomes

DONE, MISSING = "resnet20_digits", "plain_resnet20_digits"


CPU = {"processor": "CPU A", "cores": 2}


def write_card(folder, name=DONE, accuracies=(0.9,), machines=(CPU,), note="", **changes):
    """A card of seeds 0, 1, ... with these accuracies."""
    fields = catalog.get(name, "smoke").as_dict() | changes
    fields.pop("seed")
    training = {"history": [{"loss": 1.0}], "seconds": 3.0, "finished": "2026-01-01T00:00:00+00:00", "versions": {}}
    seeds = {
        str(seed): {
            **training,
            "accuracy": {"model": {"keras": accuracy}},
            "machine": machines[seed % len(machines)],
        }
        for seed, accuracy in enumerate(accuracies)
    }
    card = {
        "schema": 1,
        "recipe": fields,
        "command": f"python -m tfjointrd run {name} and so on",
        "data": {"name": "digits", "note": note, "train_images": 512, "validation_images": 360},
        "networks": {"model": {"parameters": 1, "macs": 2, "peak_activation_bytes": 3, "files": {}}},
        "seeds": seeds,
    }
    (folder / name).mkdir()
    cards.write(folder / name, card)


def test_mean_over_the_seeds_and_what_is_missing(tmp_path):
    machines = CPU, {"processor": "CPU B", "cores": 8, "accelerators": "GPU C"}
    write_card(tmp_path, accuracies=(0.9, 0.8, 0.85), machines=machines, note="scanned")
    done, missing = outcomes([DONE, MISSING], tmp_path, "smoke", seeds=(0, 1, 2))
    assert done.mean == pytest.approx(0.85) and done.accuracies == {0: 0.9, 1: 0.8, 2: 0.85}
    assert (done.epochs, done.data) == (catalog.get(DONE, "smoke").epochs, "digits, scanned")
    assert done.machines == ("CPU A, 2 cores", "CPU B, GPU C")
    assert done.command == f"python -m tfjointrd run {DONE} and so on"
    assert missing.mean is None and missing.accuracies == {}
    assert missing.command == f"python -m tfjointrd run {MISSING} --scale smoke --seeds 0 1 2"


def test_table(tmp_path):
    write_card(tmp_path, accuracies=(0.9, 0.8), note="scanned.")
    found = outcomes([DONE, MISSING], tmp_path, "smoke")
    text = outcome_table(dict(zip(["ResNet-20", "plain-20"], found, strict=True)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and len(rows) == 4
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (rows[2], rows[3])]
    assert cells[0] == ["ResNet-20", "85.00", "80.00 to 90.00", "2", "3", f"`{DONE}`"]
    assert cells[1] == ["plain-20", "not run", "", "0", "3", f"`{MISSING}`"]
    assert "seeds. digits, scanned.\n" in text and "CPU A, 2 cores" in text
    assert f"```\npython -m tfjointrd run {MISSING} --scale smoke --seeds 0\n```" in text


def test_table_of_nothing_but_one_kind(tmp_path):
    assert "Trained on" not in outcome_table({"plain-20": outcomes([MISSING], tmp_path, "smoke")[0]})
    write_card(tmp_path)
    text = outcome_table({"ResNet-20": outcomes([DONE], tmp_path, "smoke")[0]})
    assert "ot run" not in text and "90.00 to" not in text


@pytest.mark.parametrize("scale, changes", [("laptop", {}), ("smoke", {"epochs": 4})])
def test_a_card_of_other_settings_is_refused(tmp_path, scale, changes):
    write_card(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"Expected a card of {DONE} at scale {scale}. Received: .*epochs="):
        outcomes([DONE], tmp_path, scale)


def test_unknown_names_are_errors(tmp_path):
    with pytest.raises(ValueError, match="Expected the name of a recipe"):
        outcomes(["resnet21_digits"], tmp_path)
    write_card(tmp_path)
    with pytest.raises(ValueError, match=r"`network` to be one of \['model'\]. Received: network='small'"):
        outcomes([DONE], tmp_path, "smoke", network="small")


def test_a_column_for_each_number_format_that_there_is():
    costs = {"parameters": 1000, "macs": 2_000_000, "peak_activation_bytes": 2048}
    rows = [
        Row("a", 0.9, **costs, accuracy_float32=0.9, bytes_float32=4096, latency_float32=1.5),
        Row("b", 0.8, **costs, accuracy_int4=0.0, bytes_int4=512, latency_int4=None),
    ]
    assert rows[1].accuracy_int4 == 0.0 and rows[1].as_dict()["bytes_int4"] == 512
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(rows).splitlines()]
    assert lines[0] == [
        *("network", "Keras %", "float32 %", "int4 %", "parameters", "MACs (M)", "live memory (KiB)"),
        *("float32 (KiB)", "int4 (KiB)", "float32 (ms)", "int4 (ms)"),
    ]
    assert lines[2] == ["a", "90.00", "90.00", "—", "1,000", "2.00", "2.0", "4", "—", "1.500", "—"]
    assert lines[3] == ["b", "80.00", "—", "0.00", "1,000", "2.00", "2.0", "—", "0", "—", "—"]
    with pytest.raises(TypeError, match="Expected accuracy_FORMAT, bytes_FORMAT, latency_FORMAT. Received: size_int4"):
        Row("c", 0.9, **costs, size_int4=3)


def test_figures_of_files_are_means_over_the_seeds_too(tmp_path):
    write_card(tmp_path, accuracies=(0.9, 0.7))
    card = cards.read(tmp_path / DONE)
    for seed, value in (("0", 0.88), ("1", 0.68)):
        card["seeds"][seed]["accuracy"]["model"]["int8"] = value
    finished = Run(catalog.get(DONE, "smoke"), tmp_path / DONE, {}, card)
    row = measure("resnet20", finished, "model")
    assert (row.accuracy, row.of_file("accuracy", "int8")) == pytest.approx((0.8, 0.78))
