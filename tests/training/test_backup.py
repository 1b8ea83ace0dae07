"""`keras.callbacks.BackupAndRestore`, by which Keras resumes trainings: it brings back what they remember."""

import keras
import numpy as np
import pytest

from tfjointrd import Pruning, adjoin, search

METHODS = {
    "adjoin": lambda tiny: adjoin(tiny(), 2, round_to=1),
    "pruning": lambda tiny: Pruning(tiny(filters=8), target_macs=0.5, round_to=1),
    "search": lambda tiny: search(tiny(), (1, 2), round_to=1, target_macs=0.6, seed=3),
}


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", METHODS)
def test_a_training_goes_on_as_if_it_had_not_been_interrupted(name, tiny, images, tmp_path):
    x, y = images[0][:32], images[1][:32]

    def fit(*callbacks):
        keras.utils.set_random_seed(4)
        model = METHODS[name](tiny)
        model.compile(keras.optimizers.SGD(0.02))
        model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        fit(keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False), Stop())
    again, whole = fit(keras.callbacks.BackupAndRestore(backup)), fit()
    assert int(again.step) == int(whole.step) == 8 and float(again.total_steps) == 8.0
    for ours, theirs in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)
