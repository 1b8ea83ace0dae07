"""One of the processes of `test_distribute.py`: trains small networks and writes what came out.

`python distributed_worker.py KIND FOLDER TASK MODELS` with KIND `mirrored` or `processes`; processes find one another
through the environment. Tasks: `train` trains the kinds of networks named, as `plain+dan`; `resume` trains from the
folder's checkpoint on, if there is one; `die` does, too, but process 1 is killed in the second epoch. `train+resume`
and `train+die` do both.
"""

import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

from tfjointrd import JointRD, adjoin, remove_shortcuts, search
from tfjointrd.data import ArrayPipeline, DatasetInfo
from tfjointrd.surgery.swap import with_fused_batch_normalization
from tfjointrd.training.engines import distribute

L = keras.layers
KIND, FOLDER, TASK, TRAINED = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4].split("+")


def pipeline(size=32, training=True, classes=3):
    """Images in batches of 16."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, size)
    x = rng.integers(0, 100, (size, 4, 4, 1)) + 50 * y[:, None, None, None]
    info = DatasetInfo("noise", classes, (4, 4, 1), (0.0,), (1.0,))
    return ArrayPipeline(x.astype("uint8"), y, info, 16, training=training, flip=training, seed=3)


def network():
    """Two stages, the first with a shortcut."""
    inputs = keras.Input((4, 4, 1))
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="stem_conv")(L.Rescaling(1 / 100)(inputs))
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(momentum=0.8, name="stem_bn")(x))
    z = L.Conv2D(4, 3, padding="same", use_bias=False, name="stage1_conv")(x)
    z = L.BatchNormalization(momentum=0.8, name="stage1_bn")(z)
    x = L.ReLU(name="stage1_relu")(L.Add(name="stage1_add")([x, z]))
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="stage2_conv")(x)
    x = L.ReLU(name="stage2_relu")(L.BatchNormalization(momentum=0.8, name="stage2_bn")(x))
    outputs = L.Dense(3, name="logits", kernel_regularizer=keras.regularizers.L2(0.01))(L.GlobalAveragePooling2D()(x))
    return with_fused_batch_normalization(keras.Model(inputs, outputs, name="net"))


def joint():
    teacher = network()
    return JointRD(remove_shortcuts(teacher), teacher, boundaries=["stage1_relu"])


def searched():
    """Widths learned under a budget: every device draws the same noise."""
    return search(network(), alphas=(1, 2), keep=["stem_*"], target_macs=0.85, round_to=1, seed=5)


MODELS = {"plain": network, "adjoined": lambda: adjoin(network(), 2, round_to=1), "jointrd": joint, "dan": searched}


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss=loss, metrics=["accuracy"])
    return model


def write(group, name, model, **more):
    if distribute.is_chief():
        np.savez(FOLDER / f"{name}_{group.devices}.npz", *model.get_weights(), **more)


def train(group):
    """Kinds of networks for two epochs; the plain one on batches that do not divide, too."""
    for name, make in ((name, MODELS[name]) for name in TRAINED):
        keras.utils.set_random_seed(1)
        model = compiled(make())
        model.fit(group.share(pipeline()), epochs=2, verbose=0)
        write(group, name, model)
        if name == "adjoined" and group.chief:
            with group.alone():
                np.savez(FOLDER / f"small_{group.devices}.npz", model.small().predict(pipeline().x, verbose=0))
        if name == "plain":
            model.fit(group.share(pipeline(3)), epochs=1, verbose=0)
            result = model.evaluate(group.share(pipeline(3, training=False)), verbose=0)
            write(group, "uneven", model, result=result)


class Checkpoint(keras.callbacks.Callback):
    """Saves each epoch in process 0, and kills another process in the second epoch if that is the task."""

    def __init__(self, group):
        super().__init__()
        self.group = group

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.group.chief:
            with self.group.alone():
                self.model.save(FOLDER / "unfinished.keras")  # in vain if the other process is dead
            os.replace(FOLDER / "unfinished.keras", FOLDER / f"epoch{epoch + 1}.keras")

    def on_train_batch_end(self, batch, logs=None):
        if TASK.endswith("die") and not distribute.is_chief() and self.epoch == 1:
            while not (FOLDER / "epoch1.keras").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)


def resume(group):
    """Three epochs, from the checkpoint on."""
    start = len(list(FOLDER.glob("epoch*.keras")))
    keras.utils.set_random_seed(1)
    model = keras.saving.load_model(FOLDER / f"epoch{start}.keras") if start else compiled(network())
    share = group.share(pipeline())
    share.set_epoch(start)
    model.fit(share, initial_epoch=start, epochs=3, verbose=0, callbacks=[Checkpoint(group)])
    write(group, "resumed", model)


def main():
    if KIND == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        groups = [distribute.mirrored(), distribute.mirrored(["CPU:0"])]
    else:
        groups = [distribute.processes(seed=1, timeout=100, heartbeat=10)]
    for group in groups:
        with group.scope():
            for task in TASK.split("+"):
                {"train": train, "resume": resume, "die": resume}[task](group)


main()
