"""Taylor's first-order criterion: by how much the loss would change without a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfjointrd.data.batches import batches
from tfjointrd.layers.weight_names import is_kernel, weight_name
from tfjointrd.progress import followed
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.importance.criterion import Criterion, register_importance
from tfjointrd.surgery.importance.feature_maps import image_shape
from tfjointrd.surgery.output_activation import named_outputs
from tfjointrd.surgery.tasks import Task, tasks_of
from tfjointrd.surgery.tied_sets import Site, TiedSets

_BACKENDS = ("tensorflow", "jax")
_SHIFTS = ("bias", "beta")  # go with the kernel or scale of their layer
Key = tuple[str, str, int]  # of a weight's axis: layer, weight, axis


@keras.saving.register_keras_serializable(package="tfjointrd")
class Taylor(Criterion):
    """The squared sum of gradient times weight over a channel's weights, averaged over batches.

    To first order that is the squared change of the loss where these weights become zero. There is one vector of scores
    for each layer that makes the channels (kernel and bias), each normalisation (gamma and beta) and each layer that
    takes them (kernel). Gradients are those of inference: dropout off, batch normalisations with their statistics.

    Args:
        batch_size: Images a batch, where data are arrays.
        loss: A loss `(labels, outputs) -> scalar`; by default the one that fits labels and outputs, as for trainings.
            With several outputs, their losses add up, and labels are a list or a dict by the outputs' names.
        reduction: See `Criterion`.
        normalize: See `Criterion`; by default nothing, since changes of the loss compare as they are.

    Reference:
        Importance Estimation for Neural Network Pruning (https://arxiv.org/abs/1906.10771), Eqn 8.
    """

    needs_data, needs_slices = True, False

    def __init__(
        self,
        batch_size: int = 32,
        loss: Callable[[Any, Any], Any] | None = None,
        reduction: str = "mean",
        normalize: str | None = None,
    ):
        super().__init__(reduction, normalize)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"Expected `batch_size` to be a whole number from 1 on. Received: {batch_size!r}.")
        self.batch_size, self.loss = batch_size, loss

    def measure(self, model: keras.Model, sets: TiedSets, data: Any) -> dict[str, list[np.ndarray]]:
        """The scores of each layer and role, by the set's name.

        Raises:
            ValueError: If there are no labels, or Keras runs on a backend without gradients of functions.
        """
        backend = keras.backend.backend()
        if backend not in _BACKENDS:
            raise ValueError(f"Expected Keras on one of the backends {_BACKENDS}. Received: backend='{backend}'.")
        sites = _by_layer(sets)
        keys = list(dict.fromkeys(_key(site) for group in sites.values() for site in group))
        totals: dict[tuple[str, str, str], Any] = dict.fromkeys(sites, 0.0)
        compute, count = None, 0
        given = batches(data, self.batch_size, shape=image_shape(model))
        for images, labels in followed(given, "scoring channels by 'taylor'", data):
            if labels is None:
                raise ValueError("Expected `data` with labels, (images, labels), for 'taylor'. Received: images alone.")
            compute = compute or _compiled(functional(model), sets, keys, self.loss)
            products = dict(zip(keys, compute(images, labels), strict=True))
            for group, members in sites.items():
                change = sum(products[_key(site)][site.entries].sum(axis=1) for site in members)
                totals[group] = totals[group] + change**2
            count += 1
        found: dict[str, list[np.ndarray]] = {}
        for (tied, _, _), total in totals.items():
            found.setdefault(tied, []).append(total / count)
        return found

    def members(self, tied, slices, measured):
        """The scores of the layers."""
        return measured.get(tied.name, [])


def _key(site: Site) -> Key:
    return site.layer, site.weight, site.axis


def _by_layer(sets: TiedSets) -> dict[tuple[str, str, str], list[Site]]:
    """Set, layer and role -> the weights that become zero together."""
    found: dict[tuple[str, str, str], list[Site]] = {}
    for site in sets.sites():
        if is_kernel(site.weight) or site.weight in ("gamma", "scale", *_SHIFTS):
            role = "channel" if site.weight in _SHIFTS and (site.tied, site.layer, "channel") in found else site.role
            found.setdefault((site.tied, site.layer, role), []).append(site)
    return {key: sites for key, sites in found.items() if any(site.weight not in _SHIFTS for site in sites)}


def _compiled(model: keras.Model, sets: TiedSets, keys: list[Key], loss: Callable | None) -> Callable:
    """`(images, labels) -> ` for each key, gradient times weight summed over all other axes."""
    graph = sets.channels.graph
    layers = {layer for layer, _, _ in keys}
    variables = {
        (layer, weight_name(graph.sources[layer], variable)): variable
        for layer in layers
        for variable in graph.sources[layer].weights
    }
    names = list(dict.fromkeys((layer, weight) for layer, weight, _ in keys))
    watched = [variables[name] for name in names]
    tasks, known = tasks_of(graph), []
    own_names = [task.name for task in tasks]

    def loss_of(values, images, labels):
        with keras.StatelessScope(state_mapping=list(zip(watched, values, strict=True))):
            outputs = named_outputs(own_names, model(images, training=False))
        parts = zip(known, labels, outputs.values(), strict=True)
        return sum((loss or _default_loss(task, y))(y, output) for task, y, output in parts)

    def products(values, gradients):
        found = dict(
            zip(names, (value * gradient for value, gradient in zip(values, gradients, strict=True)), strict=True)
        )
        return [
            ops.sum(found[layer, weight], axis=[i for i in range(len(found[layer, weight].shape)) if i != axis])
            for layer, weight, axis in keys
        ]

    compute = (_tensorflow if keras.backend.backend() == "tensorflow" else _jax)(loss_of, products)

    def on_arrays(images, labels):
        several = len(tasks) > 1 and isinstance(labels, (Mapping, list, tuple))
        labels = named_outputs(own_names, labels).values() if several else [labels]
        labels = [np.asarray(y) for y in labels]
        if not known:  # the first labels tell what outputs are for where the network does not
            known.extend(task if loss else task.with_labels(y) for task, y in zip(tasks, labels, strict=True))
        values = [variable.value for variable in watched]
        images = keras.tree.map_structure(np.asarray, images)
        return [np.asarray(x, "float64") for x in compute(values, images, labels)]

    return on_arrays


def _default_loss(task: Task, labels) -> keras.losses.Loss:
    """The loss of one output by the shape of its labels."""
    return task.default_loss(len(labels.shape) == len(task.shape) and labels.shape[-1] == task.channels != 1)


def _tensorflow(loss_of: Callable, products: Callable) -> Callable:
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def compute(values, images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = loss_of(values, images, labels)
        return products(values, tape.gradient(loss, values, unconnected_gradients="zero"))

    def on_values(values, images, labels):
        return compute(*(keras.tree.map_structure(tf.convert_to_tensor, x) for x in (values, images, labels)))

    return on_values


def _jax(loss_of: Callable, products: Callable) -> Callable:
    import jax

    @jax.jit
    def compute(values, images, labels):
        return products(values, jax.grad(loss_of)(values, images, labels))

    return compute


register_importance("taylor", Taylor)
