"""Queues: their order, what they skip and report, and what stops them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from shallow import make_shallow, make_short

from tfjointrd.__main__ import main
from tfjointrd.experiments import catalog, queue, run_named, study
from tfjointrd.experiments import run_by_name as named
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.run_folder import locked

NAMES = ["resnet20_digits", "narrow_resnet20_a2_digits"]


@pytest.fixture
def in_this_process(monkeypatch, no_files):
    """Trainings of eight layers and three steps that run here; those in `fail` end as a process does that fails."""
    make_shallow(monkeypatch)
    make_short(monkeypatch, *NAMES)
    began, fail = [], set()

    def run(training, out, options, log):
        began.append((training.recipe, training.seed))
        if training.recipe in fail:
            log.write_text("chatter\nerror: the loss became nan\n")
            return 1
        run_named(training.recipe, training.scale, out, (training.seed,), verbose=0)
        return 0

    monkeypatch.setattr(queue, "_run", run)
    return began, fail


def test_order_is_seed_by_seed():
    order = [(training.recipe, training.seed) for training in queue.expand(NAMES, "smoke", (1, 0))]
    assert order == [(name, seed) for seed in (0, 1) for name in NAMES]
    assert [(training.recipe, training.seed) for training in queue.expand(["study"])] == list(study.ORDER)
    assert {training.scale for training in queue.expand(["study"])} == {"study"}
    assert {training.scale for training in queue.expand(NAMES)} == {"laptop"}
    first = queue.expand(["study"], "study", (0,))
    assert {training.seed for training in first} == {0} and len(first) > 15


def test_a_queue_skips_what_is_finished_and_says_how_far_it_is(in_this_process, tmp_path, capsys):
    began, _ = in_this_process
    trainings = queue.expand(NAMES, "smoke")
    assert queue.status(trainings, tmp_path).count("waiting") == 2
    queue.run_queue(trainings[:1], tmp_path)
    assert began == [(NAMES[0], 0)]
    capsys.readouterr()
    queue.run_queue(trainings, tmp_path)
    assert began == [(NAMES[0], 0), (NAMES[1], 0)]
    printed = capsys.readouterr().out
    assert f"[2/2] {NAMES[1]} seed 0: waiting, begins at" in printed
    queue.run_queue(trainings, tmp_path, quiet=True)
    assert "begins" not in capsys.readouterr().out
    assert f"[1/2] {NAMES[0]} seed 0: finished before" in printed and f"[2/2] {NAMES[1]} seed 0: model " in printed
    assert queue.status(trainings, tmp_path).endswith("2 of 2 trainings are finished.")


def test_one_that_its_recipe_has_not_collected_is_finished_and_collected(in_this_process, tmp_path):
    """As when the process ends between the card of a seed and that of the recipe."""
    began, _ = in_this_process
    trainings = queue.expand(NAMES[:1], "smoke")
    queue.run_queue(trainings, tmp_path)
    card = tmp_path / NAMES[0] / "card.json"
    collected = card.read_text()
    card.unlink()
    state = queue.status(trainings, tmp_path)
    assert "finished, not yet in the card of its recipe" in state and "1 of 1 trainings are finished." in state
    assert named.state(NAMES[0], tmp_path) == "seed0 finished, not yet in the card of its recipe"
    queue.run_queue(trainings, tmp_path)
    assert len(began) == 2 and card.read_text() == collected
    assert queue.status(trainings, tmp_path).splitlines()[0].endswith("finished")


def test_one_that_fails_does_not_stop_the_others(in_this_process, tmp_path, capsys):
    began, fail = in_this_process
    fail.add(NAMES[0])
    with pytest.raises(RuntimeError, match="1 of 2 trainings failed: resnet20_digits seed 0. See .*log"):
        queue.run_queue(queue.expand(NAMES, "smoke"), tmp_path)
    assert began == [(NAMES[0], 0), (NAMES[1], 0)]
    assert "failed with status 1 after 0 minutes: error: the loss became nan" in capsys.readouterr().out
    fail.clear()
    queue.run_queue(queue.expand(NAMES, "smoke"), tmp_path)
    assert began[2:] == [(NAMES[0], 0)]


def test_a_card_of_another_training_stops_nothing_else(in_this_process, tmp_path, capsys):
    began, _ = in_this_process
    run_named(NAMES[0], "smoke", tmp_path, verbose=0)
    card = tmp_path / NAMES[0] / "card.json"
    card.write_text(card.read_text().replace('"epochs": 1', '"epochs": 4'))
    trainings = queue.expand(NAMES, "smoke")
    assert "not possible: Expected a card of resnet20_digits at scale smoke" in queue.status(trainings, tmp_path)
    with pytest.raises(RuntimeError, match="1 of 2 trainings failed: resnet20_digits seed 0"):
        queue.run_queue(trainings, tmp_path)
    assert began == [(NAMES[1], 0)]


def test_one_that_runs_elsewhere_is_left_alone(in_this_process, tmp_path, capsys):
    began, _ = in_this_process
    trainings = queue.expand(NAMES, "smoke")
    with locked(tmp_path / NAMES[0] / "seed0"):
        queue.run_queue(trainings, tmp_path)
    assert began == [(NAMES[1], 0)] and f"{NAMES[0]} seed 0: running, elsewhere" in capsys.readouterr().out


def test_bad_queues(in_this_process, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="Received: 'resnet21_digits'. Did you mean .*resnet20_digits"):
        queue.expand([NAMES[0], "resnet21_digits"], "smoke")
    assert main(["run", *NAMES, "an_resnet20_digits", "--scale", "smoke", "--out", str(tmp_path)]) == 1
    assert "Did you mean" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"`seeds` of the list 'study', \[0, 1, 2\]. Received: seeds=\[7\]"):
        queue.expand(["study"], seeds=(7,))
    with pytest.raises(ValueError, match="for recipes of one data set. .* for cifar10, fashion_mnist"):
        queue.expand(["study"], data_file=__file__)
    with pytest.raises(FileNotFoundError, match="Received: data_file='nowhere.npz'"):
        queue.expand(NAMES, data_file="nowhere.npz")
    assert main(["run", *NAMES, "--out", str(tmp_path), "--distribute", "processes"]) == 1
    assert "a queue runs in one process" in capsys.readouterr().err
    with locked(tmp_path / queue.QUEUE), pytest.raises(BlockingIOError, match="which another process has locked"):
        queue.run_queue(queue.expand(NAMES, "smoke"), tmp_path)
    monkeypatch.setattr(queue, "LEAST_FREE", 10**18)
    with pytest.raises(OSError, match="MB free .* Make room; the same command goes on from there"):
        queue.run_queue(queue.expand(NAMES, "smoke"), tmp_path)
    assert not in_this_process[0]


def test_command_line_shows_the_state(tmp_path, capsys):
    assert main(["run", "study", "--scale", "study", "--out", str(tmp_path), "--status"]) == 0
    printed = capsys.readouterr().out
    assert f"0 of {len(study.ORDER)} trainings are finished." in printed
    assert printed.count("not run") == len(study.CLAIMS)
    assert not list(tmp_path.iterdir())


def test_stopping_a_queue_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "-m", "tfjointrd", "run", *NAMES, "--scale", "smoke", "--out", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    checkpoints, end = Checkpoints(tmp_path / NAMES[0] / "seed0"), time.monotonic() + 120
    while checkpoints.newest_name() is None and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Continue with: python -m tfjointrd run" in error, error[-2000:]
    assert f"[1/2] {NAMES[0]} seed 0: waiting, begins at" in out and "[2/2]" not in out
    reached = checkpoints.newest_name()
    assert reached >= (1, 0)
    log = (tmp_path / "queue" / f"{NAMES[0]}_seed0.log").read_text()
    assert re.search("\nStopped in epoch .*\nContinue with: python -m tfjointrd run .*\n", log)
    assert not re.search("oneDNN|cudart|cpu_feature", log)  # what TensorFlow says when it is imported
    state = queue.status(queue.expand(NAMES, "smoke"), tmp_path)
    assert f"interrupted, {reached[0]} of 3 epochs" in state and "waiting" in state


# === The study ===


def test_the_study_has_what_its_claims_compare():
    trained = {name for name, _ in study.ORDER}
    for claim in study.CLAIMS:
        assert claim.expected and claim.source and sum(sign for sign, *_ in claim.terms) == 0
        for _, name, network in claim.terms:
            assert name in trained
            method = catalog.get(name, "study").method
            assert network in (("full", "small") if method in ("adjoined", "search") else ("model",))


def test_settings_are_never_chosen_on_the_images_that_score():
    for name, seed in study.ORDER:
        recipe = catalog.get(name, "study", seed)
        assert recipe.held_out_for_validation == 0.1
        assert recipe.scored_on == ("held_out" if name.startswith("tune_") else "test")


def test_verdicts(tmp_path, in_this_process):
    recipes = ("resnet20_digits", "narrow_resnet20_a2_digits")
    claim = study.Claim("s", "p", tuple(zip((1, -1), recipes, ("model", "model"), strict=True)), 0.5, "e")
    assert study.verdict(claim, tmp_path, "smoke") == "not run"
    accuracies = {}
    for recipe, of_another_seed in zip(recipes, (0.75, 0.5), strict=True):
        run = run_named(recipe, "smoke", tmp_path, verbose=0)
        card, trained = run.card, run.card["seeds"]["0"]
        card["seeds"]["1"] = {**trained, "accuracy": {"model": {"keras": of_another_seed}}}
        (run.folder / "card.json").write_text(json.dumps(card))
        accuracies[recipe] = {0: trained["accuracy"]["model"]["keras"], 1: of_another_seed}
    expected = {seed: 100 * (accuracies[recipes[0]][seed] - accuracies[recipes[1]][seed]) for seed in (0, 1)}
    assert study.differences(claim, tmp_path, "smoke") == pytest.approx(expected)
    mean = sum(expected.values()) / 2
    held = "held" if mean >= 0.5 else "not held"
    assert study.verdict(claim, tmp_path, "smoke").startswith(f"{held}: {mean:+.2f} points (2 seeds, ")
    card["data"]["fingerprint"] = "that of other images"
    (run.folder / "card.json").write_text(json.dumps(card))
    assert study.verdict(claim, tmp_path, "smoke") == "not run"
