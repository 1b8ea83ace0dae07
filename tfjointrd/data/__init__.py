"""Data sets by name.

`load` returns two pipelines that `fit` takes, and `info` what is known of a set beforehand.

Example:

>>> import tfjointrd as jrd
>>> train, validation = jrd.data.load("digits", batch_size=64)
>>> history = model.fit(train, validation_data=validation, epochs=2, verbose=0)
"""

from tfjointrd.data.arrays import ArrayPipeline
from tfjointrd.data.image_folder import FolderPipeline
from tfjointrd.data.information import DatasetInfo
from tfjointrd.data.loading import info, load, names
from tfjointrd.data.pipeline import Pipeline
from tfjointrd.data.tfds_sets import StreamPipeline

__all__ = ["ArrayPipeline", "DatasetInfo", "FolderPipeline", "Pipeline", "StreamPipeline", "info", "load", "names"]


def __dir__() -> list[str]:
    return list(__all__)
