"""Data sets by name.

`load` returns two pipelines that `fit` takes, and `info` what is known of a set beforehand.

Example:

>>> import tfjointrd as jrd
>>> train, validation = jrd.data.load("digits", batch_size=64)
>>> history = model.fit(train, validation_data=validation, epochs=2, verbose=0)
"""

from typing import TYPE_CHECKING

from tfjointrd import lazy as _lazy

if TYPE_CHECKING:
    from tfjointrd.data.arrays import ArrayPipeline
    from tfjointrd.data.image_folder import FolderPipeline
    from tfjointrd.data.information import DatasetInfo
    from tfjointrd.data.loading import info, load, names
    from tfjointrd.data.pipeline import Pipeline
    from tfjointrd.data.tfds_sets import StreamPipeline

__all__ = ["ArrayPipeline", "DatasetInfo", "FolderPipeline", "Pipeline", "StreamPipeline", "info", "load", "names"]

_NAMES = {
    "arrays": ("ArrayPipeline",),
    "image_folder": ("FolderPipeline",),
    "information": ("DatasetInfo",),
    "loading": ("info", "load", "names"),
    "pipeline": ("Pipeline",),
    "tfds_sets": ("StreamPipeline",),
}

# Names of classes and sizes of images are known without Keras, which pipelines import.
__getattr__ = _lazy.attributes(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)


def __dir__() -> list[str]:
    return list(__all__)
