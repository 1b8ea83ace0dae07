"""Labels of outputs of which not all sizes are known; `tests/training/test_tasks.py` has the others."""

import numpy as np
import pytest

from tfjointrd.data.labels import BINARY, CLASSES, NUMBERS, check_labels

ANY = (None, None)


@pytest.mark.parametrize("kind", [CLASSES, BINARY, NUMBERS, None])
def test_an_unknown_number_of_channels_takes_any(kind):
    assert check_labels(np.eye(3), ANY, kind) == (kind or CLASSES, True)


@pytest.mark.parametrize(
    "y, kind, message",
    [
        (
            np.zeros((4, 2, 3)),
            None,
            r"labels of shape \(batch,\), one of any number of classes each, or \(batch, any\)",
        ),
        (np.zeros((4, 2, 3)), CLASSES, "one of any number of classes each"),
        (np.zeros(4), BINARY, r"labels of shape \(batch, any\), 0 or 1 for each of any number of outputs"),
        (np.zeros(4), NUMBERS, r"Expected labels of shape \(batch, any\). Received: labels of shape \(4,\)"),
    ],
)
def test_labels_of_another_shape_for_an_unknown_number_of_channels(y, kind, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y, ANY, kind)
