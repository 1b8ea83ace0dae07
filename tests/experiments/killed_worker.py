"""A training in a process that tests kill: `killed_worker.py FOLDER NETWORK METHOD BATCH_SIZE [TEACHER]`."""

import sys
from pathlib import Path

import keras

from tfjointrd.experiments import Recipe, card, run
from tfjointrd.experiments.checkpoint import Checkpoints


class KeepCheckpoint(keras.callbacks.Callback):
    """A copy of the last checkpoint: it holds optimizer, counters and metrics too, and `run` deletes its own."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, logs=None):
        newest = Checkpoints(self.folder).newest()
        (self.folder / "last.npz").write_bytes(newest.path.read_bytes())


def main(folder, network, method, batch_size, teacher=None):
    fields = {"epochs": 3, "batch_size": int(batch_size), "learning_rate": 0.05, "seed": 3}
    taught = {"teacher": teacher} if teacher else {}
    recipe = Recipe(method=method, network=network, **taught, **fields)
    folder = Path(folder)
    card.forms = dict  # no .tflite files, which take longer than the training
    run(recipe, folder, verbose=0, minutes=0.0005, callbacks=[KeepCheckpoint(folder)])


if __name__ == "__main__":
    main(*sys.argv[1:])
