"""The trainings that notebooks run live."""

from pathlib import Path

import numpy as np
import pytest

import tfjointrd as jrd
from tfjointrd.experiments import Live, paper_table, pruning_figure

SAVED = Path(__file__).parents[2] / "saved_models"


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("TFJOINTRD_SCALE", "smoke")
    return Live(epochs=30, depth=56)


def test_at_smoke_scale_little_is_trained(live, capsys):
    assert (live.smoke, live.epochs, live.depth) == (True, 1, 8)
    assert "64 digits of 8 by 8 pixels to learn from, 64 to validate, 1 epoch each" in str(live)
    pair = live.fit(jrd.adjoin(live.network(), alpha=2), "pair")
    assert list(live.results) == ["pair, full", "pair, small"] and pair.optimizer.iterations == 2
    assert "pair, small" in capsys.readouterr().out
    x, y = live.arrays(live.validation)
    right = np.mean(np.asarray(pair.full()(x.astype("float32"), training=False)).argmax(-1) == y)
    assert live.results["pair, full"] == pytest.approx(100 * right) and len(x) == 64


def test_other_images_and_equal_starts(live):
    x, y = live.arrays(live.train)
    first, second = live.network(), live.network()
    np.testing.assert_array_equal(first.get_weights()[5], second.get_weights()[5])
    assert not np.array_equal(first.get_weights()[5], live.network(seed=1).get_weights()[5])
    network = live.fit(jrd.new_head(first, num_classes=2), images=(x, y // 5))
    right = np.mean(np.asarray(network(x.astype("float32"), training=False)).argmax(-1) == y // 5)
    assert live.accuracy(network, (x, y // 5)) == pytest.approx(100 * right) and not live.results
    (path,) = live.export(network, "half", (x, y // 5), (x, y // 5))
    assert path.name == "half_float32.tflite" and path.stat().st_size > 1000


def test_figure_of_a_table(tmp_path):
    figure = pruning_figure(paper_table("an_table1", tmp_path), tmp_path / "figure1.png")
    left, right = figure.axes
    assert len(left.collections) == 16 and [text.get_text() for text in right.texts] == ["not run"]
    assert (tmp_path / "figure1.png").stat().st_size > 1000
    texts = {text.get_text(): text.xy for text in left.texts}
    assert texts["DAN-50"] == (3.49, 73.33)
    boxes = [text.get_window_extent() for text in left.texts]
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))
    assert all(left.bbox.x0 <= box.x0 and box.x1 <= left.bbox.x1 for box in boxes)


def test_a_figure_holds_one_setting():
    figure = pruning_figure(paper_table("an_table1", SAVED))
    texts = {text.get_text(): text.xy for text in figure.axes[1].texts}
    assert figure.axes[1].get_title().startswith("ours: laptop, 15 epochs")
    assert texts["full network, alone"][1] == pytest.approx(85.6, abs=0.1)  # not that of scale study


def test_few_images_are_the_same_in_every_epoch(monkeypatch):
    monkeypatch.delenv("TFJOINTRD_SCALE", raising=False)
    assert Live(images=5000).train.size == 1437
    live = Live(images=200)
    assert "200 digits" in str(live)
    assert len({row for epoch in range(3) for row in live.train.order(epoch).tolist()}) == 200
    x, y = live.arrays(live.train)
    np.testing.assert_array_equal(x, live.train.x[np.sort(live.train.order(0))])
    assert len(y) == 200
