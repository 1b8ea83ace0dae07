import keras
import numpy as np
import pytest

from tfjointrd import report, slim
from tfjointrd.data.batches import accuracy
from tfjointrd.surgery import channel_importance, tied_sets

L = keras.layers


def network(normalization=L.BatchNormalization):
    inputs = keras.Input((6, 6, 2))
    x = L.ReLU()(normalization()(L.Conv2D(6, 3, padding="same", name="a")(inputs)))
    y = L.ReLU()(normalization()(L.Conv2D(8, 3, padding="same", name="b")(x)))
    x = L.Add()([x, L.Conv2D(6, 1, name="c")(y)])
    return keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))


@pytest.mark.parametrize("normalization", [L.BatchNormalization, L.LayerNormalization, L.UnitNormalization])
def test_accuracies_are_those_of_narrow_networks(normalization):
    model, rng = network(normalization), np.random.default_rng(0)
    for variable in model.weights:
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.5, variable.shape))
    before = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    x, y = rng.normal(size=(60, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 60)
    rows = report.sensitivity(model, iter([(x[:40], y[:40]), (x[40:], y[40:])]), "l1", (0.7, 0.5))
    assert [(row["set"], row["ratio"]) for row in rows] == [(name, r) for name in "ab" for r in (0.0, 0.5, 0.7)]
    assert [row["channels"] for row in rows] == [6, 3, 1, 8, 4, 2] and rows[0]["layers"] == ["a", "c"]
    scores = channel_importance(model, "l1")
    for row in rows:
        best = np.argsort(-scores[row["set"]])[: row["channels"]]
        small = slim(model, {layer: sorted(best.tolist()) for layer in row["layers"]})
        assert row["accuracy"] == accuracy(small.predict_on_batch, (x, y))
    assert len({row["accuracy"] for row in rows}) > 2
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_norm_behind_an_activation_that_makes_something_of_zeros():
    inputs, rng = keras.Input((6, 6, 2)), np.random.default_rng(0)
    x = L.UnitNormalization()(L.Conv2D(12, 3, activation="sigmoid", name="a")(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(6, 3, name="b")(x))))
    for variable in model.weights:
        variable.assign(rng.normal(0, 1, variable.shape))
    x = rng.normal(size=(256, 6, 6, 2)).astype("float32")
    y = model.predict_on_batch(x).argmax(-1)
    scores = channel_importance(model, "l1")["a"]
    small = slim(model, {"a": sorted(np.argsort(-scores)[:6].tolist())})
    (found,) = (row for row in report.sensitivity(model, (x, y), "l1", (0.5,)) if row["set"] == "a" and row["ratio"])
    assert found["accuracy"] == accuracy(small.predict_on_batch, (x, y)) < 1


def test_a_heat_map(tmp_path):
    sets = [tied.name for tied in tied_sets(network())][:2]
    rows = [{"set": name, "ratio": r, "accuracy": 1 - r / (i + 1)} for i, name in enumerate(sets) for r in (0.0, 0.5)]
    axes = report.sensitivity_figure(rows, tmp_path / "new" / "sensitivity.png")
    assert (tmp_path / "new" / "sensitivity.png").stat().st_size > 1000
    assert [label.get_text() for label in axes.get_yticklabels()] == sets
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 %", "50 %"]
    assert sorted(text.get_text() for text in axes.texts) == ["100.0", "100.0", "50.0", "75.0"]
    with pytest.raises(ValueError, match="accuracy"):
        report.sensitivity_figure([{"set": "a", "ratio": 0.5}])


@pytest.mark.parametrize(
    ("ratios", "data", "message"),
    [
        ((0.5, 1.0), None, "between 0 and 1"),
        ((), None, "at least one"),
        ((0.5,), np.zeros((2, 6, 6, 2)), "with labels"),
        ((0.5,), (np.zeros((2, 5, 5, 2)), np.zeros(2)), r"of shape \(count, 6, 6, 2\)"),
    ],
)
def test_requests_that_cannot_be_met(ratios, data, message):
    with pytest.raises(ValueError, match=message):
        report.sensitivity(network(), data, ratios=ratios)
