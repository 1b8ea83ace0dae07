import pytest

from tfjointrd.experiments import card


@pytest.fixture
def no_files(monkeypatch):
    """Trainings leave no `.tflite` files, the making of which takes most of a short one's time."""
    monkeypatch.setattr(card, "forms", dict)
