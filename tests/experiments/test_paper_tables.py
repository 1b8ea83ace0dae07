"""The papers' tables: their rows name recipes that exist, and what is shown as ours comes from cards."""

import json
from pathlib import Path

import pytest

from tfjointrd.__main__ import main
from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, paper_table, study
from tfjointrd.experiments.card_images import description, same_images, with_note
from tfjointrd.experiments.paper_tables import TABLES, adjoined_pruning, jointrd
from tfjointrd.experiments.paper_tables.fill import SCALES, baseline_of, read_cards, same_trainings
from tfjointrd.experiments.recipes import METHODS

SAVED = Path(__file__).parents[2] / "saved_models"
CPU = {"processor": "CPU A", "cores": 2}
ROWS = [(table, group, row) for table in TABLES.values() for group, row in table.rows()]


def write_card(folder, name, accuracies, scale="laptop", parts=("model",), memory=3, note="images"):
    fields = catalog.get(name, scale).as_dict()
    fields.pop("seed")
    training = {"history": [{"loss": 1.0}], "seconds": 3.0, "finished": "2026-01-01T00:00:00+00:00", "versions": {}}
    card = {
        "schema": 1,
        "recipe": fields,
        "command": f"python -m tfjointrd run {name}",
        "data": {"name": "cifar10", "note": note, "train_images": 512, "validation_images": 360},
        "networks": {
            part: {"parameters": 81_658, "macs": 21_480_000, "peak_activation_bytes": memory, "files": {}}
            for part in parts
        },
        "seeds": {
            str(seed): {**training, "machine": CPU, "accuracy": {part: {"keras": accuracy} for part in parts}}
            for seed, accuracy in enumerate(accuracies)
        },
    }
    (folder / name).mkdir(parents=True)
    cards.write(folder / name, card)


def lines_of(name, folder, groups=""):
    return {line.row.network: line for line in paper_table(name, folder, groups).lines}


def test_every_row_names_a_recipe_that_exists():
    names, transferred = set(catalog.names()), 0
    for table, _, row in ROWS:
        if row.recipe.startswith("transfer_"):  # begins with the network of a recipe
            transferred += 1
            assert row.command.split("saved_models/")[1].split("/")[0] in names
            continue
        assert not row.recipe or row.recipe in names, (table.name, row.network)
        if row.recipe:
            assert row.part in METHODS_PARTS[catalog.get(row.recipe, "paper").method], (table.name, row.network)
    assert transferred == 3
    assert len(ROWS) > 200 and {"jointrd_table1", "jointrd_combined", "an_figure4", "an_dan"} < TABLES.keys()


# The networks of a method that rows may ask for.
METHODS_PARTS = {
    method: ("full", "small") if method in ("adjoined", "search", "jointrd_adjoined") else ("model",)
    for method in METHODS
}


def test_every_training_of_the_study_and_every_card_has_its_row():
    rows = {name for _, _, row in ROWS for scale in SCALES for name in same_trainings(row.recipe, scale)}
    study_names = {name for name, _ in study.ORDER if not name.startswith("tune_")}
    assert study_names - rows == set()
    there = {name for name, _ in read_cards(SAVED) if not name.startswith("tune_")}
    assert there - rows == set() and len(there) > 25


def test_rows_of_a_group_have_names_of_their_own_and_baselines_in_it():
    for table in TABLES.values():
        for group in table.groups:
            names = [row.network for row in group.rows]
            assert len(set(names)) == len(names), group.title
            assert {row.baseline for row in group.rows} <= {"", *names}
            assert not any(row.ours and row.paper is not None for row in group.rows)


def test_a_row_and_its_baseline_are_trained_alike():
    compared = 0
    for _, group, row in ROWS:
        base = baseline_of(group, row) if row.baseline else None
        if base is None or not {row.recipe, base.recipe} <= set(catalog.names()):
            continue
        for scale in SCALES:
            if not all(scale in catalog.scales(one.recipe) for one in (row, base)):
                continue
            own, other = (catalog.get(one.recipe, scale) for one in (row, base))
            if own.method.startswith("pruned") and not other.method.startswith("pruned"):
                continue  # begins with the trained baseline
            for field in ("optimizer", "epochs", "batch_size", "schedule", "augment", "weight_decay", "image_size"):
                if row.recipe.startswith("dan_xresnet") and field == "gamma":
                    continue
                assert own.get(field) == other.get(field), (row.network, scale, field)
            compared += 1
    assert compared > 100


def test_figures_are_those_of_the_papers():
    """A few of them, as they stand in the texts."""
    printed = {(table.name, group.title, row.network): row.paper for table, group, row in ROWS}
    assert printed["an_table3", "CIFAR-10, depth 44", "AN-44-Small a2"] == 94.01
    assert printed["an_table2", "AN-20-Small", "RKD"] == 92.15 and printed["an_table2", "AN-110-Small", "RKD"] == 94.11
    assert printed["an_table2", "AN-56-Small", "KDCR"] == 93.7
    assert printed["an_table4", "CIFAR-100, DenseNet-121", "AN-Full a4"] == 80.8
    assert printed["jointrd_table4", "ImageNet, ResNet-50", "plain by KD"] == 71.47
    assert printed["jointrd_table3", "CIFAR-100, wide ResNet-50", "plain by JointRD"] is None
    assert len(adjoined_pruning.OTHERS_TABLE_1) == 12 and jointrd.TABLE_2.groups[0].rows[0].paper == 1.4


def test_a_row_without_a_card_reads_not_run(tmp_path):
    for name, table in TABLES.items():
        filled = paper_table(name, tmp_path)
        assert len(filled.lines) == len(list(table.rows()))
        text, shown = str(filled), filled._repr_html_()
        assert text.count("not run") == shown.count("not run") == len(filled.lines) and "Settings" not in text
    assert repr(paper_table("jointrd_table2", tmp_path)) == "FilledTable('jointrd_table2', 1 lines)"
    text = str(paper_table("jointrd_table4", tmp_path))
    assert "76.08" in text and "not listed" in text and "`python -m tfjointrd run RECIPE" in text


def test_a_card_changes_its_cells(tmp_path):
    title = "CIFAR-10, ResNet-20"
    write_card(tmp_path, "resnet20_cifar10", (0.90, 0.92))
    write_card(tmp_path, "an_resnet20_a2_cifar10", (0.925,), parts=("full", "small"))
    base, full = lines_of("an_table4", tmp_path, title).values()
    assert base.ours.mean == pytest.approx(91) and base.ours.spread == pytest.approx(2**0.5)
    assert base.ours.recipe == "resnet20_cifar10"  # which at this scale is `standard_resnet20_cifar10`
    assert full.gain == pytest.approx(1.5) and full.paper_gain == pytest.approx(93.51 - 92.5)
    assert full.difference == pytest.approx(92.5 - 93.51) and full.ours.spread is None
    text, shown = (getattr(paper_table("an_table4", tmp_path, title), show)() for show in ("__str__", "_repr_html_"))
    for cell in ("91.00 ± 1.41 (2)", "92.50 (1)", "+1.01", "+1.50", "-1.01", "laptop, 15 epochs"):
        assert cell in text and cell in shown
    assert "laptop, 15 epochs, cifar10, images (CPU A, 2 cores)" in text and "not run" not in text
    small = lines_of("an_table3", tmp_path, "depth 20")["AN-20-Small a2"]
    assert small.ours.parameters == 81_658 and "0.07, 0.0817" in str(paper_table("an_table3", tmp_path, "depth 20"))


def test_a_line_for_each_scale_and_gains_within_one(tmp_path):
    write_card(tmp_path, "resnet20_cifar10", (0.9,))
    write_card(tmp_path / "study", "resnet20_cifar10", (0.8,), "study")
    write_card(tmp_path / "study", "an_resnet20_a2_cifar10", (0.85,), "study", ("full", "small"))
    lines = paper_table("an_table4", tmp_path, "CIFAR-10, ResNet-20").lines
    assert [(line.row.network, line.ours.scale) for line in lines] == [
        ("standard", "study"),
        ("standard", "laptop"),
        ("AN-Full a2", "study"),
    ]
    assert lines[2].gain == pytest.approx(5)
    assert "Compare rows of one scale only." in str(paper_table("an_table4", tmp_path))
    assert "Compare rows" not in str(paper_table("an_table4", tmp_path / "study"))


def test_settings_of_the_other_paper_do_not_count_at_paper_scale(tmp_path):
    assert same_trainings("standard_resnet20_cifar10", "laptop") == ("standard_resnet20_cifar10", "resnet20_cifar10")
    assert same_trainings("standard_resnet20_cifar10", "paper") == ("standard_resnet20_cifar10",)
    write_card(tmp_path, "resnet20_cifar10", (0.9,), "paper")
    assert lines_of("an_table4", tmp_path, "CIFAR-10, ResNet-20")["standard"].ours is None
    assert lines_of("jointrd_table3", tmp_path, "ResNet-20")["ResNet-20"].ours.mean == pytest.approx(90)


def test_memory_is_a_ratio(tmp_path):
    write_card(tmp_path, "resnet20_cifar10", (0.9,), memory=196_608)
    write_card(tmp_path, "jointrd_resnet20_cifar10", (0.9,), memory=131_072)
    lines = lines_of("jointrd_table1", tmp_path, "ResNet-20")
    assert lines["plain ResNet-20"].ours.mean == 1.5 and lines["plain ResNet-20 with shortcuts"].ours.mean == 1.0


def test_cards_of_seeds_and_of_trainings_without_a_name(tmp_path):
    write_card(tmp_path, "resnet20_cifar10", (0.9, 0.8))
    write_card(tmp_path / "later", "resnet20_cifar10", (0.7,))
    seed = tmp_path / "resnet20_cifar10" / "seed0"
    seed.mkdir()
    (seed / "card.json").write_text("{}")  # not read
    own = json.loads((tmp_path / "later" / "resnet20_cifar10" / "card.json").read_text())
    own["recipe"] |= {"name": "", "scale": ""}
    (tmp_path / "transfer_resnet20_imagenette128").mkdir()
    cards.write(tmp_path / "transfer_resnet20_imagenette128", own)
    found = read_cards([tmp_path])
    assert len(found["resnet20_cifar10", "laptop"]["seeds"]) == 2
    lines = lines_of("jointrd_transfer", tmp_path, "stand-in")
    assert lines["ResNet-20"].ours.mean == pytest.approx(70) and lines["plain, alone"].ours is None


def test_unknown_names():
    with pytest.raises(ValueError, match="Expected `name` to be one of jointrd_table1, .* Received: name='table5'"):
        paper_table("table5")
    with pytest.raises(ValueError, match="Expected `groups` .* Received: groups='SVHN'"):
        paper_table("an_table4", groups="SVHN")


def test_on_the_command_line(tmp_path, capsys):
    write_card(tmp_path, "resnet20_cifar10", (0.9, 0.92), memory=2048)
    assert main(["tables", "--table", "an_table4", "--cards", str(tmp_path)]) == 0
    assert "91.00 ± 1.41 (2)" in capsys.readouterr().out
    assert main(["tables", "--cards", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("The claim:") == len(TABLES)
    assert main(["tables", "--zoo", "--cards", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "[resnet20_cifar10](resnet20_cifar10) | 91.00 ± 1.41 |" in printed and "| card |" in printed
    assert main(["tables", "--zoo", "--table", "an_dan"]) == 1
    assert main(["tables", "--zoo", "--cards", str(tmp_path / "missing")]) == 1


def test_gains_are_on_the_same_images(tmp_path):
    """Rows of another data set, as of the original of a copy, stand beside each other and are not subtracted."""
    title, mine, theirs = "CIFAR-10, ResNet-20", tmp_path / "mine", tmp_path / "theirs"
    write_card(theirs, "resnet20_cifar10", (0.9, 0.8), note="CIFAR-10 (JPEG q75 copy)")
    write_card(mine, "an_resnet20_a2_cifar10", (0.95,), parts=("full", "small"), note="")
    lines = {line.row.network: line for line in paper_table("an_table4", [mine, theirs], title).lines}
    assert lines["AN-Full a2"].gain is None and lines["AN-Full a2"].ours.data == "cifar10"
    text = str(paper_table("an_table4", [mine, theirs], title))
    assert "laptop, 15 epochs, cifar10 |" in text and "laptop, 15 epochs, CIFAR-10 (JPEG q75 copy) |" in text
    write_card(mine, "resnet20_cifar10", (0.94,), note="The validation images are the official test images.")
    lines = {line.row.network: line for line in paper_table("an_table4", [mine, theirs], title).lines}
    assert lines["AN-Full a2"].gain == pytest.approx(1)  # the first folder counts, not the most seeds
    assert read_cards([theirs, mine])["resnet20_cifar10", "laptop"]["data"]["note"].startswith("CIFAR-10 (JPEG")


def test_names_of_images():
    def card(name, note="", fingerprint=None, size=None):
        data = {"name": name, "note": note, **({"fingerprint": fingerprint} if fingerprint else {})}
        return {"data": data, "recipe": {"image_size": size}}

    copy, print_of_it = "CIFAR-10 (JPEG q75 copy)", "489becc06f057e0ef68dac0f61811171"
    official = "The validation images are the official test images."
    assert [description(card(name, official)) for name in ("cifar10", "fashion_mnist")] == ["cifar10", "fashion_mnist"]
    assert description(card("cifar10", with_note("lr test", copy), print_of_it)) == f"{copy}, lr test"
    assert description(card("photos", "mean and std are ImageNet's.", size=64)) == "photos at 64 pixels"
    assert with_note("mine", official) == "mine" and with_note("", official) == official
    assert same_images(card("cifar10", copy), card("cifar10", "lr test", print_of_it))
    assert not same_images(card("cifar10", "", "a"), card("cifar10", "", "b"))
    assert not same_images(card("cifar10", "", "a", 16), card("cifar10", "", "a"))
    assert not same_images(card("cifar10"), card("cifar10", copy))
