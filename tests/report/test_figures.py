"""The figure of accuracy against cost."""

import subprocess
import sys

import pytest

from tfjointrd import report

ROWS = [
    {"name": "teacher", "accuracy": 0.92, "macs": 40e6, "peak_activation_bytes": 196608, "parameters": 270896},
    {"name": "student", "accuracy": 0.915, "macs": 40e6, "peak_activation_bytes": 131072, "parameters": 268336},
    {"name": "small", "accuracy": 0.9, "macs": 21e6, "peak_activation_bytes": 196608, "parameters": 75000},
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


def test_seaborn_is_imported_only_for_figures():
    code = "import sys, tfjointrd.report; sys.exit('seaborn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
