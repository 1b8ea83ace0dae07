"""Online distillation: several networks are trained at once and teach each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import keras

from tfjointrd.data.labels import CLASSES
from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tasks import tasks_of
from tfjointrd.training.distillers import PEER_METHODS
from tfjointrd.training.distillers.peers import PeerDistiller
from tfjointrd.training.losses import per_replica, weighted_mean
from tfjointrd.training.methods.networks import check_networks, check_sizes
from tfjointrd.training.monitors import check_monitors
from tfjointrd.training.objective import Objective, as_logits
from tfjointrd.training.scheduled_model import ScheduledModel, serialized


@keras.saving.register_keras_serializable(package="tfjointrd")
class Cohort(ScheduledModel):
    """Trains classifiers of any architecture at once, each on the labels and on the outputs of the others.

    There is no teacher. The loss is a sum over the networks: the loss on the labels, plus the method's loss times its
    weight. `evaluate` has only the loss on the labels.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual
    (these are loaded after `import tfjointrd`). The networks are trained in place.

    Args:
        networks: Two or more functional or Sequential networks of the same classes, for the same images.
        method: `tfjointrd.distillers.DML()`, which is the default, `KDCL()`, or its name.
        name: The model's name.

    Attributes:
        networks: The networks.
        keys: The name of each network in outputs and metrics: `"network1"`, `"network2"`, ... as in
            `network1_accuracy`.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        Dict of the networks' outputs by `keys`.

    Raises:
        ValueError: If there are fewer than two networks, one is not functional, has several inputs or outputs or no
            classes, or two of them share weights or differ in their classes or images; or if the method is not known.

    Example:

    >>> cohort = Cohort([tfjointrd.models.resnet20(), tfjointrd.models.resnet20()])
    >>> cohort.keys
    ['network1', 'network2']

    Reference:
        Deep Mutual Learning (https://arxiv.org/abs/1706.00384).
    """

    def __init__(self, networks: Sequence[keras.Model], method: PeerDistiller | str = "dml", name: str | None = None):
        super().__init__(name=name)
        if not isinstance(networks, (list, tuple)) or len(networks) < 2:
            count = len(networks) if isinstance(networks, (list, tuple)) else 1
            raise ValueError(f"Expected two or more `networks`, which teach each other. Received: {count}.")
        if isinstance(method, str):
            if method not in PEER_METHODS:
                raise ValueError(f"Expected `method` to be one of {', '.join(PEER_METHODS)}. Received: '{method}'.")
            method = PEER_METHODS[method]()
        if not isinstance(method, PeerDistiller):
            raise ValueError(
                f"Expected `method` to be for cohorts: {', '.join(PEER_METHODS)}, or a `PeerDistiller`. Received: "
                f"{method!r}."
            )
        self.keys = [f"network{i + 1}" for i in range(len(networks))]
        self.networks = [functional(network, f"networks[{i}]") for i, network in enumerate(networks)]
        graphs = [read_graph(network) for network in self.networks]
        for i, network in enumerate(self.networks):
            check_synchronized(network)
            graphs[i].single_output(f"networks[{i}]")
            for j in range(i):
                both = {f"networks[{j}]": graphs[j], f"networks[{i}]": graphs[i]}
                check_networks(both, self.networks[j], network)
                check_sizes(both)
        tasks = [tasks_of(graph)[0] for graph in graphs]
        for i, task in enumerate(tasks):
            if task.channels != tasks[0].channels:
                raise ValueError(
                    "Expected networks of the same classes, one of which is right. Received: "
                    f"'{self.networks[0].name}' with {tasks[0].channels} and '{self.networks[i].name}' with "
                    f"{task.channels}."
                )
        self._objectives = SimpleNamespace(all=[Objective([task]) for task in tasks])
        self.take_over_loss(*(networks if len({task.ending for task in tasks}) == 1 else ()))
        self._check_classes()
        self.method = method
        self.built = True

    def objectives(self):
        """The networks' losses."""
        return self._objectives.all

    def _check_classes(self) -> None:
        """Refuses outputs that are not classes, as soon as networks, losses or labels tell."""
        for objective, network in zip(self._objectives.all, self.networks, strict=True):
            task = objective.tasks[0]
            if task.compared != CLASSES:
                raise ValueError(
                    "Expected networks, a loss and labels of classes, one of which is right: that is what networks of "
                    f"a cohort teach each other. Received: '{network.name}' with an output of {task.channels} for "
                    f"kind '{task.compared}'{f' by loss {task.loss}' if task.loss else ''}."
                )

    def check_labels(self, y, place="", again=True):
        """As for `ScheduledModel`; a `ValueError` too if they are not of classes."""
        super().check_labels(y, place, again)
        self._check_classes()

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """As for `ScheduledModel`.

        Raises:
            ValueError: As for `ScheduledModel`; if `loss` is not one of classes, or is to serve networks that do not
                end in the same.
        """
        endings = [objective.tasks[0].ending or "logits" for objective in self._objectives.all]
        if loss is not None and len(set(endings)) > 1:
            raise ValueError(
                "Expected networks that return the same, logits or probabilities, for one `loss` to fit all. Received: "
                f"loss={loss} for networks that end in {', '.join(endings)}. Leave `loss` out."
            )
        super().compile(optimizer, loss, *args, **kwargs)
        self._check_classes()

    def changing(self):
        """The method's weight, if it changes."""
        return [*super().changing(), *([] if self.method.schedule.constant else [f"weight of {self.method.name}"])]

    def route_metrics(self, metrics):
        """Metrics of each network."""
        return self._objectives.all[0].route(metrics, [[key] for key in self.keys])

    def check_callbacks(self, callbacks):
        """Refuses those that look for a metric without saying of which network."""
        check_monitors(callbacks, self.keys, self.metrics_given())

    def call(self, inputs, training=None):
        """The outputs of all networks."""
        outputs = (network(inputs, training=training) for network in self.networks)
        return {key: keras.tree.flatten(one)[0] for key, one in zip(self.keys, outputs, strict=True)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss described above, plus the layers' own losses. In evaluation that on the labels alone."""
        objectives, outputs = self._objectives.all, [y_pred[key] for key in self.keys]
        pairs = list(zip(objectives, outputs, strict=True))
        loss = sum(objective.loss(y, [output], sample_weight) for objective, output in pairs)
        if training:
            logits = [as_logits(output, CLASSES, objective.tasks[0].ending) for objective, output in pairs]
            (labels,) = objectives[0].by_output(y, "y", same=False)
            (weights,) = objectives[0].by_output(sample_weight, "sample_weight", same=True)
            taught = sum(weighted_mean(values, weights) for values in self.method(logits, labels=labels))
            loss = loss + self.method.schedule(self.step, self.total_steps) * per_replica(taught)
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of each network."""
        y, sample_weight = (
            value if value is None or isinstance(value, Mapping) else dict.fromkeys(self.keys, value)
            for value in (y, sample_weight)
        )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            "networks": [serialized(network) for network in self.networks],
            "method": keras.saving.serialize_keras_object(self.method),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""

        def made(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        networks = [made(network) for network in config["networks"]]
        return cls(**{**config, "networks": networks, "method": made(config["method"])})
