"""The figures: accuracy against cost, and gradients."""

import os
import subprocess
import sys

import numpy as np
import pytest
from jax_process import JAX, NO_TENSORFLOW

from tfjointrd import report

ROWS = [
    {"name": "teacher", "accuracy": 0.92, "macs": 40e6, "peak_activation_bytes": 196608, "parameters": 270896},
    {"name": "student", "accuracy": 0.915, "macs": 40e6, "peak_activation_bytes": 131072, "parameters": 268336},
    {"name": "small", "accuracy": 0.9, "macs": 21e6, "peak_activation_bytes": 196608, "parameters": 75000},
]


# Two epochs of two stages, as `GradientRecorder` gives them.
GRADIENTS = [
    {
        "epoch": e,
        "step": 4 * e,
        "stage": s,
        "own_norm": 1.5 - e,
        "teacher_norm": t,
        "cosine": c,
        "tail_weight": 1 - e / 2,
    }
    for e, s, t, c in ((0, 1, 3.0, -0.5), (0, 2, 0.0, None), (1, 1, 0.25, 0.5), (1, 2, 0.0, None))
]


def labels(axes):
    return {text.get_text(): text for text in axes.texts}


def test_every_network_is_a_labelled_point():
    axes = report.accuracy_against_cost(ROWS)
    points = axes.collections[0]
    assert [tuple(point) for point in points.get_offsets()] == [(40, 92), (40, 91.5), (21, 90)]
    assert {name: text.xy for name, text in labels(axes).items()} == {
        "teacher": (40, 92),
        "student": (40, 91.5),
        "small": (21, 90),
    }
    assert axes.get_xscale() == "linear"
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 21 and right > 40 and bottom < 90 and top > 92


@pytest.mark.parametrize(
    ("size", "legend"),
    [("peak_activation_bytes", ["128 KiB", "192 KiB"]), ("parameters", ["75 k", "271 k"])],
)
def test_areas_are_in_proportion(size, legend):
    axes = report.accuracy_against_cost(ROWS, size=size)
    areas = axes.collections[0].get_sizes()
    for row, area in zip(ROWS, areas, strict=True):
        assert area / max(areas) == pytest.approx(row[size] / max(other[size] for other in ROWS))
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == legend


def test_wide_ranges_are_logarithmic():
    assert report.accuracy_against_cost([*ROWS, {**ROWS[0], "name": "large", "macs": 4e9}]).get_xscale() == "log"


def test_labels_do_not_overlap():
    rows = [{**ROWS[0], "name": f"network {number}", "accuracy": 0.9 + number / 10**6} for number in range(6)]
    texts = list(labels(report.accuracy_against_cost(rows)).values())
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_one_network_is_enough():
    axes = report.accuracy_against_cost(ROWS[:1])
    assert list(labels(axes)) == ["teacher"]
    assert len(axes.figure.legends[0].get_texts()) == 1


def test_writes_a_png_in_a_new_folder(tmp_path):
    path = tmp_path / "figures" / "accuracy.png"
    report.accuracy_against_cost(ROWS, path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ([], "parameters", "`rows` to hold at least one network"),
        (ROWS, "latency", r"`size` to be one of \['peak_activation_bytes', 'parameters'\]. Received: size='latency'"),
        (
            [{"name": "teacher", "macs": 1e6, "parameters": 1}],
            "parameters",
            r"each row to have \['accuracy'\].*teacher",
        ),
    ],
)
def test_bad_rows_are_named(rows, size, message):
    with pytest.raises(ValueError, match=message):
        report.accuracy_against_cost(rows, size=size)


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_gradients_by_stage(tmp_path):
    axes = report.gradient_figure(GRADIENTS, tmp_path / "new" / "gradients.png")
    assert (tmp_path / "new" / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert axes.shape == (2, 2) and [upper.get_title() for upper in axes[0]] == ["Stage 1", "Stage 2"]
    assert {upper.get_yscale() for upper in axes[0]} == {"log"}
    assert curves(axes[0, 0]) == {"own path": [1.5, 0.5], "teacher, times m(t)": [3.0, 0.25]}
    lower = curves(axes[1, 0])
    assert lower["cosine"] == [-0.5, 0.5] and lower["m(t)"] == [1.0, 0.5]
    # A norm of zero has no place on a logarithmic axis.
    assert np.isnan(curves(axes[0, 1])["teacher, times m(t)"]).all() and np.isnan(curves(axes[1, 1])["cosine"]).all()
    assert [text.get_text() for text in axes[0, 1].texts] == ["no gradient from the teacher"]
    assert not axes[0, 0].texts
    legend = [text.get_text() for text in axes[0, 0].figure.legends[0].get_texts()]
    assert sorted(legend) == ["cosine", "m(t)", "own path", "teacher, times m(t)"]


def test_gradients_from_a_file(tmp_path):
    path = tmp_path / "gradients.csv"
    lines = [",".join("" if value is None else str(value) for value in row.values()) for row in GRADIENTS]
    path.write_text("\n".join([",".join(GRADIENTS[0]), *lines]))
    for ours, theirs in zip(report.gradient_figure(path).flat, report.gradient_figure(GRADIENTS).flat, strict=True):
        ours, theirs = curves(ours), curves(theirs)
        assert ours.keys() == theirs.keys()
        for label, values in ours.items():
            np.testing.assert_array_equal(values, theirs[label])


def test_bad_gradients_are_named():
    with pytest.raises(ValueError, match="`history` to hold at least one row"):
        report.gradient_figure([])
    with pytest.raises(ValueError, match=r"each row to have \['tail_weight'\]. Received: .*'own_norm': 1.5"):
        report.gradient_figure([{key: value for key, value in GRADIENTS[0].items() if key != "tail_weight"}])


def test_seaborn_is_imported_only_for_figures():
    code = "import sys, tfjointrd.report; sys.exit('seaborn' in sys.modules)"
    command = [sys.executable, "-c", NO_TENSORFLOW + code]
    assert subprocess.run(command, env={**os.environ, **JAX}, check=False).returncode == 0


ARCHITECTURE = {"widths": {"a": 8, "b": 32}, "full_widths": {"a": 16, "b": 32}}
# Two epochs of two gates, as `GateRecorder` gives them.
GATES = [
    {"epoch": e, "step": 4 * e, "group": g, "alpha": a, "probability": p}
    for e, g, a, p in (
        (0, "a", 1.0, 0.5),
        (0, "a", 2.0, 0.5),
        (0, "b", 1.0, 0.5),
        (0, "b", 2.0, 0.5),
        (1, "a", 1.0, 0.1),
        (1, "a", 2.0, 0.9),
        (1, "b", 1.0, 0.7),
        (1, "b", 2.0, 0.3),
    )
]


def test_widths_are_bars_over_those_of_the_full_network(tmp_path):
    axes = report.width_figure(ARCHITECTURE, tmp_path / "figures" / "widths.png")
    assert [bar.get_height() for bar in axes.patches] == [16, 32, 8, 32]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
    assert (tmp_path / "figures" / "widths.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"Expected `architecture` to have \['full_widths'\]"):
        report.width_figure({"widths": {"a": 1}})


def test_gates_are_a_heat_map_for_each_alpha(tmp_path):
    axes = report.gate_figure(GATES, tmp_path / "gates.png")
    assert [ax.get_title() for ax in axes] == ["alpha 1", "alpha 2"]
    maps = [ax.collections[0].get_array().reshape(2, 2) for ax in axes]
    np.testing.assert_allclose(maps[0], [[0.5, 0.1], [0.5, 0.7]])
    np.testing.assert_allclose(maps[1], [[0.5, 0.9], [0.5, 0.3]])
    with pytest.raises(ValueError, match="Expected `history` to hold at least one row"):
        report.gate_figure([])
    with pytest.raises(ValueError, match=r"Expected each row to have \['probability'\]"):
        report.gate_figure([{"epoch": 0, "group": "a", "alpha": 1}])
