import numpy as np
import pytest
import reference


@pytest.fixture(autouse=True)
def arrays(seed, monkeypatch):
    """Every test draws the same arrays, alone or behind others."""
    monkeypatch.setattr(reference, "RNG", np.random.default_rng(7))
