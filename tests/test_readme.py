"""Examples of the README that have failed once."""

import re
from pathlib import Path

import pytest
from shallow import make_shallow

import tfjointrd as jrd

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_several_devices_with_the_data_of_the_first_example(monkeypatch):
    make_shallow(monkeypatch)
    train, test = jrd.data.load("digits", batch_size=64)
    train.hold_out(0.9)
    (code,) = (
        code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "distribute.mirrored()" in code
    )
    with pytest.warns(UserWarning, match="Expected several devices. Received: one"):
        exec(code.replace("epochs=10", "epochs=1, verbose=0"), names := {"jrd": jrd, "train": train, "test": test})
    assert names["pair"].small().input_shape == (None, 8, 8, 1)
