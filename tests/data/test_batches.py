"""One iterator for whatever form images come in."""

import keras
import numpy as np
import pytest

from tfjointrd.data import ArrayPipeline, load
from tfjointrd.data.batches import accuracy, batches

X = np.arange(10 * 2 * 2, dtype="float32").reshape(10, 2, 2, 1)
Y = np.arange(10) % 3
CUTS = [slice(0, 4), slice(4, 8), slice(8, 10)]


class InPieces(keras.utils.PyDataset):
    """As Keras iterates it, it need not end by itself."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        cut = CUTS[index % 3]
        return X[cut], Y[cut]


def tf_dataset(*parts):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(4)


FORMS = {
    "array": (lambda: X, False),
    "tensor": (lambda: keras.ops.convert_to_tensor(X), False),
    "arrays": (lambda: (X, Y), True),
    "one-hot": (lambda: (X, np.eye(3)[Y]), True),
    "weighted arrays": (lambda: (X, Y, np.ones(10)), True),
    "list of images": (lambda: [X[cut] for cut in CUTS], False),
    "tuple of images": (lambda: tuple(X[cut] for cut in CUTS), False),
    "tuple of two": (lambda: (X[:8], X[8:]), False),
    "list of pairs": (lambda: [(X[cut], Y[cut]) for cut in CUTS], True),
    "tuple of two pairs": (lambda: ((X[:8], Y[:8]), (X[8:], Y[8:])), True),
    "weighted batches": (lambda: [(X[cut], Y[cut], np.ones(len(Y[cut]))) for cut in CUTS], True),
    "generator": (lambda: ((X[cut], Y[cut]) for cut in CUTS), True),
    "function": (lambda: lambda: ((X[cut], Y[cut]) for cut in CUTS), True),
    "representative_dataset": (lambda: lambda: ([image[None]] for image in X), False),
    "PyDataset": (InPieces, True),
    "tf.data": (lambda: tf_dataset(X, Y), True),
    "tf.data images": (lambda: tf_dataset(X), False),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_hold_the_same(form):
    make, labelled = FORMS[form]
    found = list(batches(make(), shape=(2, 2, 1)))
    np.testing.assert_array_equal(np.concatenate([np.asarray(x) for x, _ in found]), X)
    if labelled:
        labels = np.concatenate([np.asarray(y) for _, y in found])
        np.testing.assert_array_equal(labels.argmax(-1) if labels.ndim > 1 else labels, Y)
    else:
        assert all(y is None for _, y in found)


def test_pipelines():
    train, _ = load("digits", batch_size=100)
    assert isinstance(train, ArrayPipeline)
    found = list(batches(train, shape=(8, 8, 1)))
    assert len(found) == len(train) and train.epoch == 0
    for position in (0, len(train) - 1):
        for ours, theirs in zip(found[position], train.batch(position), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_arrays_are_cut():
    found = list(batches((X, Y), 4))
    assert [len(x) for x, _ in found] == [len(y) for _, y in found] == [4, 4, 2]
    assert [len(x) for x, _ in batches(X)] == [10]


def test_what_never_ends_is_taken_as_far_as_it_is_wanted():
    def forever():
        while True:
            yield X

    taken = batches(forever)
    assert [len(next(taken)[0]) for _ in range(3)] == [10, 10, 10]


def test_labels_by_output_of_an_array():
    found = list(batches((X, {"a": Y, "b": Y[::-1]}), 4))
    assert [len(x) for x, _ in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([y["b"] for _, y in found]), Y[::-1])


def test_several_inputs():
    ((x, y),) = batches([((X, X[..., 0]), Y)])
    assert len(x) == 2 and y is Y
    with pytest.raises(ValueError, match=r"`data` of shape \(count, 2, 2, 1\). Received: a tuple"):
        list(batches([((X, X), Y)], shape=(2, 2, 1)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "to be an array of images, arrays .* Received: NoneType"),
        ("digits", "Received: str"),
        ({"image": X}, "Received: dict"),
        (keras.Sequential([keras.layers.Dense(1)]), "Received: Sequential"),
        (3.0, "Received: float"),
        ([], "to hold images. Received: none"),
        (X[:0], "to hold images. Received: none"),
        (lambda: iter(()), "to hold images. Received: none"),
        ([X[:0], X[:0]], "to hold images. Received: none"),
        ([[]], "Received: a batch of nothing"),
        ([3, 4], "Received: a batch of int"),
        ([("x", "y")], "Received: a batch of str, str"),
        ([(X, Y, Y, Y)], "Received: a batch of ndarray, ndarray, ndarray, ndarray"),
        ((X, Y[:9]), "a label for each image. Received: 10 images, 9 labels"),
        ([(X, Y[:9])], "a label for each image. Received: 10 images, 9 labels"),
        (X[0], r"of shape \(count, 2, 2, 1\). Received: shape \(2, 2, 1\)"),
        ([X, X[:, :1]], r"of shape \(count, 2, 2, 1\). Received: shape \(10, 1, 2, 1\)"),
    ],
)
def test_what_is_not_batches_of_images(data, message):
    with pytest.raises(ValueError, match=f"Expected `images` .*{message}"):
        list(batches(data, shape=(2, 2, 1), argument="images"))


def test_sizes_that_may_differ():
    assert len(list(batches([X, X[:, :1]], shape=(None, 2, 1)))) == 2


@pytest.mark.parametrize("labels", [Y, Y[:, None], np.eye(3)[Y]], ids=["integers", "column", "one-hot"])
def test_accuracy(labels):
    predicted = np.where(np.arange(10) < 7, Y, (Y + 1) % 3)

    def predict(x):
        return np.eye(3)[predicted[np.asarray(x)[:, 0, 0, 0].astype(int) // 4]]

    assert accuracy(predict, [(X[cut], labels[cut]) for cut in CUTS]) == 0.7
    with pytest.raises(ValueError, match="Expected `data` to hold batches .* Received: batches without labels"):
        accuracy(predict, X)


def test_forms_of_tflites_representative_datasets():
    def function():
        for index in range(10):
            yield [X[index : index + 1]]

    def named():
        for index in range(10):
            yield {"image": X[index : index + 1]}

    class RepresentativeDataset:
        input_gen = staticmethod(function)

    for data in (function, named, RepresentativeDataset()):
        found = [images for images, _ in batches(data, shape=(2, 2, 1))]
        np.testing.assert_array_equal(np.concatenate(found), X)
    with pytest.raises(ValueError, match="Expected `images`, where it is a function, to need no arguments"):
        next(batches(lambda index: [X], argument="images"))

    def broken():
        raise TypeError("of its own")

    with pytest.raises(TypeError, match="of its own"):
        next(batches(broken))
