"""Latency tables: measured layer by layer, as JSON, and as a budget."""

import json

import keras
import pytest

from tfjointrd import report, search

L = keras.layers


def network():
    inputs = keras.Input((12, 12, 3))
    x = L.ReLU()(L.Conv2D(16, 3, padding="same", name="first")(inputs))
    x = L.ReLU()(L.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    x = L.ReLU()(L.Conv2D(16, 3, padding="same", name="second")(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(x)))


def test_a_table_is_measured_and_kept_to(tmp_path):
    path = tmp_path / "tables" / "this.json"
    table = report.layer_latencies(network(), (1, 2), keep=(), runs=5, path=path)
    assert json.loads(path.read_text()) == table
    widths = {layer: [tuple(row[:2]) for row in rows] for layer, rows in table.items()}
    assert widths == {
        "first": [(3, 16), (3, 8)],
        "depthwise": [(16, 16), (8, 8)],
        "second": [(16, 16), (16, 8), (8, 16), (8, 8)],
        "logits": [(16, 4), (8, 4)],
    }
    assert all(row[2] > 0 for rows in table.values() for row in rows)
    full = sum(max(row[2] for row in rows) for rows in table.values())  # wider layers count no less than narrower ones
    smallest = sum(rows[-1][2] for rows in table.values())
    target = (full + smallest) / 2
    dan = search(network(), (1, 2), (), target_latency_ms=target, latency_table=path)
    architecture = dan.architecture()
    assert architecture["full_latency_ms"] == pytest.approx(full) and architecture["latency_ms"] <= target * 1.001
    again = type(dan).from_config(json.loads(json.dumps(dan.get_config())))
    assert again.architecture() == architecture
    with pytest.raises(ValueError, match="Expected `target_latency_ms` within what the candidates reach"):
        search(network(), (1, 2), (), target_latency_ms=10 * full, latency_table=table)


def test_layers_of_one_channel_in_integers():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(1, 3, name="one")(L.Conv2D(4, 3, name="four")(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    seen = []

    def timer(path):
        seen.append(set(report.file_profile(path).weight_bytes))
        return 1.0

    table = report.layer_latencies(model, (1, 2), ["one"], round_to=1, quantization="int8", timer=timer)
    assert seen and all(formats == {"int8"} for formats in seen)
    assert [tuple(row[:2]) for row in table["one"]] == [(4, 1), (2, 1)]


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected `latency_table` for target_latency_ms=1"):
        search(network(), (1, 2), (), target_latency_ms=1)
    with pytest.raises(ValueError, match="Expected `latency_table` to hold"):
        search(network(), (1, 2), (), latency_table={"first": [1, 2]})
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, name="first")(inputs)
    with pytest.raises(ValueError, match="Expected a network of known image size"):
        report.layer_latencies(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
