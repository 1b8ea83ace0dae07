"""Callbacks that look for the best epoch, in trainings of two networks."""

import warnings

import keras
import pytest

from tfjointrd import Distillation, JointRD, adjoin, remove_shortcuts, search
from tfjointrd.training.monitors import check_monitors

STOP, SAVE = keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint


def test_a_metric_without_a_network_is_refused(tiny, images):
    pair = adjoin(tiny(), 2, round_to=1)
    pair.compile("sgd", metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")])
    for monitor in ("val_accuracy", "val_top2"):
        with pytest.raises(ValueError, match=f"monitor='val_small_{monitor[4:]}' or monitor='val_full_.*EarlyStopping"):
            pair.fit(*images, callbacks=[STOP(monitor, mode="max")], verbose=0)
    with pytest.raises(ValueError, match=r"monitor='small_accuracy' or .*Received: ModelCheckpoint\(monitor='accuracy"):
        pair.fit(*images, callbacks=[SAVE("x.keras", "accuracy", save_best_only=True, mode="max")], verbose=0)
    taught = JointRD(adjoin(remove_shortcuts(tiny()), 2, round_to=1), tiny())
    taught.compile("sgd", metrics=["accuracy"])
    with pytest.raises(ValueError, match="val_small_accuracy"):
        taught.fit(*images, callbacks=[STOP("val_accuracy", mode="max")], verbose=0)


def test_the_loss_that_rises(tiny, images):
    pair = adjoin(tiny(), 2, round_to=1)
    with pytest.warns(UserWarning, match="EarlyStopping looks for the lowest 'val_loss', which rises with `kl_weight`"):
        pair.check_callbacks([STOP()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pair.check_callbacks([SAVE("x.keras"), STOP("val_small_loss"), keras.callbacks.Callback()])
        adjoin(tiny(), 2, round_to=1, kl_weight=1.0).check_callbacks([STOP()])
        search(tiny(), (1, 2), round_to=1, kl_weight=1.0).check_callbacks([STOP()])
        check_monitors([STOP("lr")], ["full"], [None, lambda y, p: 0.0])


def test_one_network_has_the_names_that_users_expect(tiny, images):
    x, y = images
    taught = Distillation(tiny(), tiny())
    taught.compile("sgd", metrics=["accuracy"])
    stop = STOP("val_accuracy", mode="max", patience=3)
    history = taught.fit(x[:16], y[:16], validation_data=(x, y), callbacks=[stop], verbose=0).history
    assert stop.best == history["val_accuracy"][0]


def test_averages_of_two_optimizers_are_not_swapped(tiny, images):
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    searched = search(tiny(), (1, 2), round_to=1)
    searched.compile(keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match="two optimizers.*Received: SwapEMAWeights"):
        searched.fit(*images, callbacks=[swap], verbose=0)
    taught = Distillation(tiny(), tiny())
    taught.compile(keras.optimizers.SGD(use_ema=True))
    taught.fit(*images, callbacks=[swap], verbose=0)
