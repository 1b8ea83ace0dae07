"""What is known of a data set without reading it."""

from dataclasses import dataclass, field

from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set of images.

    Attributes:
        name: Name or path under which `load` finds the set.
        num_classes: Number of classes; labels run from 0 to `num_classes - 1`.
        input_shape: `(height, width, channels)` of one image as the pipelines hand it over.
        mean: Mean of each channel over the training images, in pixel units from 0 to 255. Together
            with `std` it belongs into a network's normalisation layer.
        std: Standard deviation of each channel over the training images, in the same units.
        train_size: Number of training images, or `None` if it is known only after loading.
        validation_size: Number of validation images, or `None` if it is known only after loading.
        class_names: Names of the classes in label order, or `None` where they are not known.
        note: Anything a reader of a result should know about the set.
        resizable: Whether images are photographs, which come in any size that `load(image_size=...)` names.
        fingerprint: Tells sets in memory apart, whatever order their images are in; see
            `tfjointrd.data.arrays.fingerprint`. Empty for other sets, and where the images were not read.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_size: int | None = None
    validation_size: int | None = None
    class_names: tuple[str, ...] | None = None
    note: str = ""
    resizable: bool = False
    fingerprint: str = field(default="", compare=False)


IMAGENET_STATISTICS = "mean and std are ImageNet's."  # of photographs that are not known here

# What is to be said of sets that are not what their name promises, by fingerprint.
COPIES = {
    "489becc06f057e0ef68dac0f61811171": "CIFAR-10 (JPEG q75 copy)",
}

KNOWN = {
    known.name: known
    for known in (
        DatasetInfo(
            name="digits",
            num_classes=10,
            input_shape=(8, 8, 1),
            mean=(77.87,),
            std=(95.91,),
            train_size=1437,
            validation_size=360,
            class_names=tuple("0123456789"),
            note="Handwritten digits of scikit-learn (a part of UCI optdigits); the split is fixed.",
        ),
        DatasetInfo(
            name="cifar10",
            num_classes=10,
            input_shape=(32, 32, 3),
            mean=(125.31, 122.95, 113.87),
            std=(62.99, 62.09, 66.70),
            train_size=50000,
            validation_size=10000,
            class_names=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            note="The validation images are the official test images.",
        ),
        DatasetInfo(
            name="cifar100",
            num_classes=100,
            input_shape=(32, 32, 3),
            mean=(129.30, 124.07, 112.43),
            std=(68.17, 65.39, 70.42),
            train_size=50000,
            validation_size=10000,
            note="The validation images are the official test images.",
        ),
        DatasetInfo(
            name="fashion_mnist",
            num_classes=10,
            input_shape=(28, 28, 1),
            mean=(72.94,),
            std=(90.02,),
            train_size=60000,
            validation_size=10000,
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            note="The validation images are the official test images.",
        ),
        DatasetInfo(
            name="imagenette",
            num_classes=10,
            input_shape=(224, 224, 3),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            train_size=9469,
            validation_size=3925,
            class_names=(
                "tench",
                "English springer",
                "cassette player",
                "chain saw",
                "church",
                "French horn",
                "garbage truck",
                "gas pump",
                "golf ball",
                "parachute",
            ),
            note="Ten easy classes of ImageNet, shorter side 320 pixels; mean and std are ImageNet's.",
            resizable=True,
        ),
        DatasetInfo(
            name="imagenet2012",
            num_classes=1000,
            input_shape=(224, 224, 3),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            train_size=1281167,
            validation_size=50000,
            note="Cannot be downloaded without an account; tensorflow-datasets explains how to prepare it.",
            resizable=True,
        ),
    )
}
