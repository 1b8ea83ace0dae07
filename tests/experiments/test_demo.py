import json

import pytest

from tfjointrd.experiments.demo import demo


def test_what_the_figure_needs_is_asked_for_before_the_trainings(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"Expected the package '{name}'")

    monkeypatch.setattr("tfjointrd.experiments.demo.require", missing)
    with pytest.raises(ImportError, match="the package 'seaborn'"):
        demo(tmp_path / "demo", epochs=1)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_demo_goes_the_whole_way(tmp_path, capsys):
    rows = demo(tmp_path, epochs=1)
    out = capsys.readouterr().out
    assert [row.name for row in rows] == [
        "ResNet-20 (teacher)",
        "plain-20 alone",
        "plain-20 by JointRD",
        "narrow-20 alone",
        "AN-20 full",
        "AN-20 small",
    ]
    by_name = {row.name: row for row in rows}
    assert by_name["plain-20 alone"].peak_activation_bytes < by_name["ResNet-20 (teacher)"].peak_activation_bytes
    assert by_name["AN-20 small"].macs < by_name["AN-20 full"].macs
    assert (tmp_path / "table.md").read_text().strip() in out and str(tmp_path) in out
    assert json.loads((tmp_path / "table.json").read_text())[0]["name"] == "ResNet-20 (teacher)"
    assert (tmp_path / "accuracy_against_macs.png").stat().st_size > 10_000
    assert len(list(tmp_path.glob("*/*.tflite"))) == 12
