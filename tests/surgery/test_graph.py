import keras
import numpy as np
import pytest

import tfjointrd
from tfjointrd import new_head, report
from tfjointrd.surgery import Ref, functional, read_graph, swap_layers
from tfjointrd.surgery.weights import assign_weights


def same_function(first, second, shape, tolerance=0.0):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    outputs = [keras.tree.flatten(model.predict_on_batch(x)) for model in (first, second)]
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_a_network_is_built_again(residual):
    graph = read_graph(residual)
    again = graph.build()
    assert [layer.name for layer in again.layers] == [layer.name for layer in residual.layers]
    assert graph.shapes[Ref("end")] == (None, 8, 8, 16)
    assert not {id(v) for v in again.weights} & {id(v) for v in residual.weights}
    same_function(residual, again, (16, 16, 3))


def test_shared_layers_operators_and_several_outputs():
    inputs = keras.Input((8,), name="x")
    dense, relu = keras.layers.Dense(8, name="twice"), keras.layers.ReLU()
    y = relu(dense(relu(dense(inputs))))
    y = keras.ops.concatenate([y, inputs], axis=-1)
    model = keras.Model({"x": inputs}, {"wide": y, "narrow": inputs * 2.0 + y[:, :8]})
    graph = read_graph(model)
    assert [call.number for call in graph.calls if call.layer == "twice"] == [0, 1]
    again = graph.build()
    assert set(again.output) == {"wide", "narrow"}
    assert again.count_params() == model.count_params() == 72
    x = {"x": np.random.default_rng(0).normal(size=(3, 8)).astype("float32")}
    for key, value in model.predict_on_batch(x).items():
        np.testing.assert_array_equal(again.predict_on_batch(x)[key], value)
    with pytest.raises(ValueError, match="one output. Received: .* with 2"):
        graph.single_output()


def test_nested_networks_are_written_out(randomised):
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(randomised(base)(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    again = read_graph(model).build()
    assert again.get_layer("block_2_add").name == "block_2_add"
    assert not any(isinstance(layer, keras.Model) for layer in again.layers)
    same_function(model, again, (32, 32, 3))


def test_two_nested_networks_with_the_same_layer_names():
    def part(name, filters):
        inputs = keras.Input((4, 4, 3), name="in")
        return keras.Model(inputs, keras.layers.Conv2D(filters, 1, name="conv")(inputs), name=name)

    inputs = keras.Input((4, 4, 3), name="in")
    model = keras.Model(inputs, keras.layers.Concatenate()([part("a", 2)(inputs), part("b", 3)(inputs)]))
    graph = read_graph(model)
    assert {"conv", "b_conv"} <= set(graph.layers)
    same_function(model, graph.build(), (4, 4, 3))


def test_layers_of_nested_networks_may_be_called_as_those_outside():
    """As where a network is loaded, and its layers and new ones number themselves from one."""
    L = keras.layers
    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, L.Activation("relu", name="activation")(L.Conv2D(4, 3, name="conv")(image)), name="base")
    inputs = keras.Input((8, 8, 3))
    x = L.Dense(5, name="dense")(L.GlobalAveragePooling2D()(inner(inputs)))
    model = keras.Model(inputs, L.Activation("softmax", name="activation")(x))
    same_function(model, read_graph(model).build(), (8, 8, 3), 1e-6)
    branches = [
        keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv")], name="branch") for _ in range(3)
    ]
    blocks = []
    for index, branch in enumerate(branches):
        image = keras.Input((8, 8, 3))
        blocks.append(keras.Model(image, branch(image), name=f"block{index}"))
    model = keras.Model(inputs, L.Add()([block(inputs) for block in blocks]))
    graph = read_graph(model)
    assert len(graph.kernel_layers()) == 3
    same_function(model, graph.build(), (8, 8, 3), 1e-6)


def test_networks_and_layers_that_are_shared_stay_so():
    L = keras.layers
    twice = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 3, padding="same", name="conv")])
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, twice(twice(inputs)))
    assert read_graph(model).build().count_params() == model.count_params()
    base = keras.Model(inputs, L.Conv2D(4, 3, name="second")(L.Conv2D(3, 3, name="first")(inputs)), name="base")
    part = keras.Model(base.input, base.get_layer("first").output, name="part")
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, [base(image), part(image)])
    again = read_graph(model).build()
    assert again.count_params() == model.count_params()
    same_function(model, again, (8, 8, 3), 1e-6)


def test_sizes_within_networks_for_images_of_any_size():
    L = keras.layers
    image = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same", name="one")(image)
    inner = keras.Model(image, L.Add(name="sum")([x, L.Conv2D(8, 3, padding="same", name="two")(x)]))
    inputs = keras.Input((12, 16, 3))
    model = keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(inner(inputs))))
    shapes = read_graph(model).shapes
    assert shapes[Ref("sum")] == (None, 6, 8, 8) == shapes[Ref("one")]
    assert not any(None in shape[1:] for shape in shapes.values())


@keras.saving.register_keras_serializable("tests")
class OwnConstructor(keras.Model):
    """A functional network whose configuration says nothing of its layers."""

    def __init__(self, classes=4, **kwargs):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
        super().__init__(inputs, keras.layers.Dense(classes)(x), **kwargs)
        self.classes = classes


class OwnCall(OwnConstructor):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs)


def test_subclasses_of_functional_networks():
    model = OwnConstructor()
    same_function(model, read_graph(model).build(), (8, 8, 3), 1e-6)
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    same_function(outer, read_graph(outer).build(), (8, 8, 3), 1e-6)
    with pytest.raises(ValueError, match="`model` to compute what its layers do. .* class OwnCall has a `call`"):
        read_graph(OwnCall())


def test_sequential_networks():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    same_function(model, read_graph(model).build(), (8, 8, 1))
    with pytest.raises(ValueError, match="`model` to be built. Received: the unbuilt Sequential"):
        functional(keras.Sequential([keras.layers.Dense(3)]))


def test_networks_that_only_their_code_knows():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Expected `student` to be a functional keras.Model"):
        functional(Own(), "student")
    with pytest.raises(ValueError, match="Received: 3 of type int"):
        functional(3)


def test_weights_that_do_not_fit():
    layer = keras.layers.Dense(3, name="d")
    layer.build((None, 2))
    with pytest.raises(
        ValueError, match=r"'d' expects its weight 'kernel' in shape \(2, 3\). Received: shape \(3, 2\)"
    ):
        assign_weights(layer, {"kernel": np.zeros((3, 2)), "bias": np.zeros(3)})
    with pytest.raises(ValueError, match="'d' has no value for its weight 'kernel'"):
        assign_weights(layer, {})


def test_swap_layers(residual):
    class Quiet(keras.layers.ReLU):
        pass

    swapped = swap_layers(residual, {keras.layers.ReLU: Quiet})
    assert isinstance(swapped.get_layer("end"), Quiet)
    same_function(residual, swapped, (16, 16, 3))


def test_a_nested_network_at_the_end():
    """Keras numbers the output of such a network in another way than other tensors."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    body = keras.Model(inner.inputs[0], inner.outputs[0], name="body")
    for nested in (inner, body):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, nested(inputs))
        same_function(model, read_graph(model).build(), (4,))
    inputs = keras.Input((3,))
    square = keras.Model(inputs, keras.layers.Dense(3, name="square")(inputs), name="square_body")
    outer = keras.Input((3,))
    first = square(outer)
    model = keras.Model(outer, [first, square(first)])
    same_function(model, read_graph(model).build(), (3,))


def test_nested_networks_with_tensors_by_name():
    """Keras takes them in the order of their names, whatever order a dict has."""
    inputs = keras.Input((4,))
    twice, thrice = 2.0 * inputs, keras.layers.Dense(4)(inputs)
    image = keras.Input((4,))
    ends = {"logits": keras.layers.Dense(4)(image), "features": keras.layers.Dense(4)(image)}
    several = keras.Model(image, ends)
    model = keras.Model(inputs, keras.layers.Softmax()(several(inputs)["logits"]))
    same_function(model, read_graph(model).build(), (4,), 1e-6)
    p, q = keras.Input((4,), name="p"), keras.Input((4,), name="q")
    result = keras.layers.Dense(4)(p) - q
    for inner in (keras.Model({"q": q, "p": p}, result), keras.Model([q, p], result), keras.Model([p, q], result)):
        for given in ({"p": twice, "q": thrice}, {"q": twice, "p": thrice}):
            model = keras.Model(inputs, inner(given))
            same_function(model, read_graph(model).build(), (4,), 1e-6)
    model = keras.Model(inputs, keras.Model([q, p], result)([twice, thrice]))
    same_function(model, read_graph(model).build(), (4,), 1e-6)


def test_what_no_output_needs_has_no_shape():
    image = keras.Input((4,))
    unused = keras.layers.Dense(2, name="second")(keras.layers.Dense(2, name="first")(image))
    inner = keras.Model(image, [unused, keras.layers.Dense(3, name="used")(image)])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(inputs)[1])
    graph = read_graph(model)
    assert {ref.layer for ref in graph.shapes} == set(graph.layers)
    assert tfjointrd.report.profile(model).parameters == 15
    same_function(model, graph.build(), (4,))


class Tower(keras.Model):
    """A network that only its code knows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide, self.narrow = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)

    def call(self, x):
        return self.narrow(self.wide(x))


def test_a_network_that_only_its_code_knows_at_the_end():
    inputs = keras.Input((4,))
    for outputs in (Tower()(inputs), keras.layers.ReLU()(Tower()(inputs))):
        model = keras.Model(inputs, outputs)
        same_function(model, read_graph(model).build(), (4,), 1e-6)


def test_layers_within_layers_keep_their_weights():
    """Weights of one name in one layer are copied by their order."""
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, keras.layers.RNN([keras.layers.LSTMCell(8), keras.layers.LSTMCell(8)])(inputs))
    same_function(model, read_graph(model).build(), (4, 8))


def test_operators_with_several_outputs():
    inputs = keras.Input((4, 4, 8))
    a, b = keras.ops.split(inputs, 2, axis=-1)
    model = keras.Model(inputs, keras.ops.concatenate([b, a], axis=-1))
    graph = read_graph(model)
    assert len(graph.ancestors()[graph.single_output()]) == len(graph.calls) == 3
    same_function(model, graph.build(), (4, 4, 8))


def test_layers_that_cannot_be_made_again():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x, name="double")(inputs))
    with pytest.raises(ValueError, match=r"Layer 'double' \(Lambda\) cannot be made again .*keras.ops"):
        read_graph(model).build()


def test_adapted_normalizations_stay_adapted():
    """Their weights are copied into constants, with which they compute."""
    rng = np.random.default_rng(0)
    x = (10 + 5 * rng.normal(size=(64, 8, 8, 3))).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    inputs = keras.Input((8, 8, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, name="a")(normalization(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3)(y))
    expected = model.predict(x, verbose=0)
    pair = tfjointrd.adjoin(model, 2, (), round_to=1)
    found = (read_graph(model).build(), tfjointrd.slim(model, {"a": range(8)}), pair.full())
    for outputs in (*(network.predict(x, verbose=0) for network in found), pair.predict(x, verbose=0)["full"]):
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


class Reordered(keras.layers.Layer):
    """A batch normalisation that makes its weights in another order, and takes no mask."""

    def __init__(self, name=None, trainable=True, dtype=None, **_):
        super().__init__(name=name, trainable=trainable, dtype=dtype)

    def build(self, shape):
        for name in ("beta", "gamma"):
            setattr(self, name, self.add_weight(name=name, shape=(shape[-1],)))
        for name in ("moving_variance", "moving_mean"):
            setattr(self, name, self.add_weight(name=name, shape=(shape[-1],), trainable=False))

    def call(self, x):
        return (x - self.moving_mean) / keras.ops.sqrt(self.moving_variance + 1e-3) * self.gamma + self.beta


class Renamed(keras.layers.BatchNormalization):
    """Another name for one weight; the order is the same."""

    def add_weight(self, *args, name, **options):
        return super().add_weight(*args, name="scale" if name == "gamma" else name, **options)


def test_weights_of_a_swapped_layer_go_by_their_names(randomised):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    swapped = swap_layers(model, {keras.layers.BatchNormalization: Reordered})
    images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(swapped(images), model(images), atol=1e-5)
    with_others = swap_layers(model, {keras.layers.BatchNormalization: Renamed})
    np.testing.assert_allclose(with_others(images), model(images), atol=1e-5)
    with pytest.raises(ValueError, match="the same configuration, arguments and weights. Received: Conv2D -> PReLU"):
        swap_layers(model, {keras.layers.Conv2D: keras.layers.PReLU})


@keras.saving.register_keras_serializable(package="test")
class Transposed(keras.layers.Layer):
    """Computes with the kernel of another convolution."""

    def __init__(self, other, **options):
        super().__init__(**options)
        self.other = other

    def call(self, x):
        return keras.ops.conv_transpose(x, self.other.kernel, padding="same")

    def get_config(self):
        return {**super().get_config(), "other": keras.saving.serialize_keras_object(self.other)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "other": keras.saving.deserialize_keras_object(config["other"])})


def test_weights_that_two_layers_share():
    inputs, convolution = keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, padding="same", name="encoder")
    x = Transposed(convolution, name="decoder")(convolution(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    costs = report.profile(model)
    assert costs.parameters == costs.trainable_parameters == model.count_params()
    for change in (lambda: new_head(model, 2), lambda: swap_layers(model, {})):
        with pytest.raises(ValueError, match="where 'encoder' and 'decoder' share 'kernel', and would no longer"):
            change()
    copy = read_graph(model).build()  # as of a frozen teacher, which is only computed with
    images = np.ones((1, 8, 8, 3), "float32")
    np.testing.assert_allclose(copy(images), model(images), atol=1e-5)
