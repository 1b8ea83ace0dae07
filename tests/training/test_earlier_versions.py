"""What users of earlier versions have goes on working: arguments that are methods now, and files of trainings.

The files are of the version before `methods`: two epochs of one step each on `images`, by SGD(0.05, momentum=0.9), with
the arguments that `ARGUMENTS` names. `LOSSES` is what two further epochs came to in that version.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, remove_shortcuts
from tfjointrd.training.distillers import KD, Overhaul

FILES = Path(__file__).parent / "earlier_versions"
LOSSES = {
    "jointrd": [1.9901436567306519, 1.845121145248413],
    "distillation": [0.9266942739486694, 0.8367027640342712],
}
METHODS = {"jointrd": [(KD, 0.5, 3.0), (Overhaul, 0.01)], "distillation": [(KD, 0.4, 2.0), (Overhaul, 0.01)]}


def settings(model):
    return [(type(m), m.weight, *([m.temperature] if isinstance(m, KD) else [])) for m in model.methods]


@pytest.mark.parametrize("name", LOSSES)
def test_files_of_earlier_versions_train_on(name):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 16).astype("int32")
    x = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    model = keras.saving.load_model(FILES / f"{name}.keras")
    assert settings(model) == METHODS[name] and int(model.step) == 2
    found = model.fit(x, y, batch_size=16, epochs=4, initial_epoch=2, verbose=0).history["loss"]
    assert found == pytest.approx(LOSSES[name], rel=1e-4)


def test_earlier_arguments_are_methods(tiny):
    """With a warning that has the call to write."""
    said = r"alpha=0.3, temperature=2.0 .* `methods=\[tfjointrd.distillers.KD\(temperature=2.0, weight=0.3\)\]`"
    with pytest.warns(DeprecationWarning, match=said) as warned:
        distilled = Distillation(remove_shortcuts(tiny()), tiny(), alpha=0.3, temperature=2.0)
    assert settings(distilled) == [(KD, 0.3, 2.0)]
    assert __file__ in {one.filename for one in warned if "tfjointrd.distillers" in str(one.message)}
    with pytest.warns(DeprecationWarning, match=r"\[tfjointrd.distillers.Overhaul\(weight=0.001\)\]"):
        joint = JointRD(remove_shortcuts(tiny()), tiny(), feature_weight=1e-3)
    assert settings(joint) == [(Overhaul, 1e-3)]
    with pytest.warns(DeprecationWarning, match=r"KD\(temperature=4.0, weight=0.9\), tfjointrd.distillers.Overhaul"):
        assert settings(Distillation(remove_shortcuts(tiny()), tiny(), feature_weight=1e-3))[0] == (KD, 0.9, 4.0)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((), {"alpha": 1.5}, ValueError, r"Expected `alpha` in \[0, 1\]. Received: alpha=1.5"),
        ((0.6, 3.0), {}, ValueError, r"Received: 0.6. \(`alpha` of earlier versions is `KD\(weight=...\)`"),
        ((), {"alpha": 0.5, "methods": "kd"}, ValueError, "not both. Received: alpha=0.5"),
        ((), {"alhpa": 0.5}, TypeError, "unexpected keyword argument 'alhpa'"),
    ],
)
def test_what_cannot_be_meant(tiny, arguments, options, error, message):
    with pytest.raises(error, match=message):
        Distillation(remove_shortcuts(tiny()), tiny(), *arguments, **options)
