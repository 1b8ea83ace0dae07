"""`GradientRecorder`: its numbers, that it moves nothing, and its file. Runs on JAX too."""

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, adjoin, models, remove_shortcuts
from tfjointrd.training import Constant, GradientRecorder
from tfjointrd.training.callbacks.gradient_recorder import student_stages
from tfjointrd.training.callbacks.recorder import read
from tfjointrd.training.distillers import KD, Overhaul

BOUNDARIES = ("stage1_relu", "stage2_relu")


def pair(tiny):
    """A student, with random numbers of its own, and a teacher of other weights."""
    keras.utils.set_random_seed(1)
    teacher = tiny()
    keras.utils.set_random_seed(2)
    student = remove_shortcuts(tiny())
    x = keras.layers.Dropout(0.2, name="head_dropout")(student.get_layer("head_pool").output)
    return keras.Model(student.input, keras.layers.Dense(3, name="head_dense")(x), name="student"), teacher


def compiled(joint):
    joint.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
    return joint


def recorded(joint, x, y):
    recorder = GradientRecorder(x, y)
    compiled(joint).fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[recorder])
    return recorder.history


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def gradients(function, values):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(jax.grad(function))(values)
    import tensorflow as tf

    values = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = function(values)
    return tape.gradient(loss, values, unconnected_gradients="zero")


def by_hand(student, teacher, x, y, weight):
    """Both gradients of each stage, flat, from networks that are cut out here."""
    paths = keras.Model(student.input, [*(student.get_layer(name).output for name in BOUNDARIES), student.output])
    tails = [keras.Model(teacher.get_layer(name).output, teacher.output) for name in BOUNDARIES]
    others = [variable.value for variable in paths.non_trainable_variables]

    def cross_entropy(logits):
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))

    def own(values):
        return cross_entropy(paths.stateless_call(values, others, x, training=True)[0][-1])

    def taught(values):
        *features, _ = paths.stateless_call(values, others, x, training=True)[0]
        losses = (cross_entropy(tail(f, training=False)) for tail, f in zip(tails, features, strict=True))
        return weight * sum(losses)

    values = [variable.value for variable in paths.trainable_variables]
    found = [list(map(numpy, gradients(function, values))) for function in (own, taught)]
    stages = [[], [], []]
    for variable, *both in zip(paths.trainable_variables, *found, strict=True):
        stage = {"stem": 0, "stage1": 0, "stage2": 1, "stage3": 2, "head": 2}[variable.path.split("_")[0]]
        stages[stage].append(both)
    return [
        [np.concatenate([value.ravel() for value in side]) for side in zip(*stage, strict=True)] for stage in stages
    ]


@pytest.mark.usefixtures("eager")
def test_norms_and_cosine_are_those_by_hand(tiny, images):
    student, teacher = pair(tiny)
    expected = by_hand(student, teacher, *images, weight=0.25)
    rows = recorded(JointRD(student, teacher, tail_weight=Constant(0.25)), *images)[:3]
    assert [(row["epoch"], row["step"], row["stage"], row["tail_weight"]) for row in rows] == [
        (0, 0, stage, 0.25) for stage in (1, 2, 3)
    ]
    for row, (own, teacher) in zip(rows, expected, strict=True):
        norms = np.linalg.norm(own), np.linalg.norm(teacher)
        assert row["own_norm"] == pytest.approx(norms[0], rel=1e-4)
        assert row["teacher_norm"] == pytest.approx(norms[1], rel=1e-4)
        if row["stage"] < 3:
            assert norms[1] > 0.01
            assert row["cosine"] == pytest.approx(own @ teacher / (norms[0] * norms[1]), abs=1e-4)
            assert -1 <= row["cosine"] <= 1
    assert rows[2]["teacher_norm"] == 0 and rows[2]["cosine"] is None


@pytest.mark.usefixtures("eager")
def test_the_weight_scales_the_teachers_norm_only(tiny, images):
    rows = [recorded(JointRD(*pair(tiny), tail_weight=Constant(weight)), *images)[0] for weight in (1.0, 0.0)]
    assert rows[0]["teacher_norm"] > 0 and rows[1]["teacher_norm"] == 0
    assert rows[1]["own_norm"] == pytest.approx(rows[0]["own_norm"], rel=1e-5)
    assert rows[1]["cosine"] == pytest.approx(rows[0]["cosine"], abs=1e-5)


ADJOINED = pytest.param("adjoined", marks=[] if keras.backend.backend() == "jax" else pytest.mark.slow, id="adjoined")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("form", [pytest.param("plain", marks=pytest.mark.slow), ADJOINED, "joint teacher"])
def test_nothing_moves(tiny, images, form):
    """Weights, statistics, counters, random states and moments are those of a training without the callback."""

    def trained(*callbacks):
        student, teacher = pair(tiny)
        options = (
            {"teacher_mode": "joint", "methods": [Overhaul(1e-3), KD(weight=0.5)]} if form == "joint teacher" else {}
        )
        joint = compiled(JointRD(adjoin(student, round_to=1) if form == "adjoined" else student, teacher, **options))
        joint.fit(*images, batch_size=32, epochs=2, verbose=0, callbacks=list(callbacks))
        return [(v.name, numpy(v.value)) for v in [*joint.variables, *joint.optimizer.variables]]

    recorder = GradientRecorder(*images)
    ours, theirs = trained(recorder), trained()
    assert any("seed" in name for name, _ in ours)
    for (name, value), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(value, other, err_msg=name)
    assert [(row["epoch"], row["step"]) for row in recorder.history[::3]] == [(0, 0), (1, 2), (2, 4)]
    assert all(np.isfinite(row["own_norm"]) and row["own_norm"] > 0 for row in recorder.history)
    assert all(row["teacher_norm"] > 0 and -1 <= row["cosine"] <= 1 for row in recorder.history if row["stage"] < 3)


@pytest.mark.parametrize("form", ["plain", "adjoined"])
def test_every_weight_belongs_to_one_stage(form):
    teacher = models.resnet20(num_classes=10, input_shape=(8, 8, 1))
    student = remove_shortcuts(teacher)
    student = keras.Model(student.input, student.output * 2.0)  # an operator is no layer of an adjoined network
    joint = JointRD(adjoin(student, round_to=1) if form == "adjoined" else student, teacher)
    stages = student_stages(joint)
    assert sorted(id(v) for stage in stages for v in stage) == sorted(map(id, joint.student.trainable_variables))
    paths = [{variable.path.split("/")[0].split("_")[0] for variable in stage} for stage in stages]
    assert paths == [{"stem", "stage1"}, {"stage2"}, {"stage3", "logits"}]


class Stop(keras.callbacks.Callback):
    """Ends a training within its third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            raise KeyboardInterrupt


def test_a_file_goes_on_without_holes_or_doubles(tiny, images, tmp_path):
    path = tmp_path / "new" / "gradients.csv"
    joint = compiled(JointRD(*pair(tiny)))
    arguments = {"batch_size": 16, "epochs": 4, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        joint.fit(*images, **arguments, callbacks=[GradientRecorder(*images, path), Stop()])
    before = read(path, GradientRecorder.columns)
    assert [row["epoch"] for row in before[::3]] == [0, 1, 2]
    recorder = GradientRecorder(*images, path)
    joint.fit(*images, **arguments, initial_epoch=1, callbacks=[recorder])
    assert [(row["epoch"], row["step"]) for row in recorder.history[::3]] == [(e, 4 * e) for e in range(5)]
    assert [row["stage"] for row in recorder.history] == [1, 2, 3] * 5
    assert recorder.history[:3] == before[:3] and recorder.history[3:6] != before[3:6]
    assert read(path, GradientRecorder.columns) == recorder.history
    joint.fit(*images, **arguments, callbacks=[recorder])  # another training, from its beginning
    assert [row["step"] for row in read(path, GradientRecorder.columns)[::3]] == [0, 4, 8, 12, 16]
    assert [file.name for file in path.parent.iterdir()] == ["gradients.csv"]


def test_a_file_that_cannot_be_written_does_not_end_the_training(tiny, images, tmp_path):
    (tmp_path / "file").touch()
    recorder = GradientRecorder(*images, tmp_path / "file" / "gradients.csv")
    with pytest.warns(UserWarning, match="Records were not written to"):
        compiled(JointRD(*pair(tiny))).fit(*images, epochs=1, verbose=0, callbacks=[recorder])
    assert len(recorder.history) == 6


def test_errors(tiny, images, tmp_path, monkeypatch):
    x, y = images
    with pytest.raises(ValueError, match="as many `labels`. Received: 64 images, 63 labels"):
        GradientRecorder(x, y[1:])
    with pytest.raises(ValueError, match="Expected a `JointRD` to be trained. Received: .* of type Functional"):
        GradientRecorder(x, y).set_model(tiny())
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="Expected a file with the columns epoch, .* Received: path='.*other.csv'"):
        read(tmp_path / "other.csv", GradientRecorder.columns)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"backends \('tensorflow', 'jax'\). Received: backend='torch'"):
        GradientRecorder(x, y)
