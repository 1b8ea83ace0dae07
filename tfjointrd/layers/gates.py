"""Gates that choose widths: Gumbel-softmax weights of candidates, and channels scaled by them.

Eqn 5 of Adjoined Networks adds up one masked convolution a candidate, z = sum_j g_j conv(x, W * M_j). Each candidate
keeps its first filters, so filter c is in every candidate that is wider than c. One convolution is therefore enough.
Its output channel c is scaled by the sum of these candidates' weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

NOISES = ("gumbel", "normal", "uniform", "none")


def check_alphas(alphas: Any) -> list[float]:
    """The candidates as a list, or a `ValueError` unless they are different rising numbers from 1 on, at least one."""
    alphas = list(alphas) if isinstance(alphas, (list, tuple, np.ndarray)) else [alphas]
    alphas = [a.item() if isinstance(a, np.generic) else a for a in alphas]
    valid = alphas and all(isinstance(a, (int, float)) and not isinstance(a, bool) and a >= 1 for a in alphas)
    if not valid or any(a >= b for a, b in zip(alphas[:-1], alphas[1:], strict=True)):
        raise ValueError(
            f"Expected `alphas` to be different numbers from 1 on in rising order. Received: alphas={alphas}."
        )
    return alphas


@keras.saving.register_keras_serializable(package="tfjointrd")
class GumbelSoftmax(keras.layers.Layer):
    """Weights of candidates that add up to one: random while training, the most probable candidate otherwise.

    In training g = softmax((logits + noise) / temperature) (Eqn 4). The lower the temperature, the closer g is to a
    random choice of one candidate, candidate j with the probability softmax(logits)_j. Otherwise g is one for the
    candidate with the largest logit and zero for the rest.

    Args:
        noise: What is added to the logits: `"gumbel"`, -log(-log(u)) with uniform u, which makes the choice follow
            softmax(logits); `"normal"` or `"uniform"`, two other readings of the paper; or `"none"`.
        frozen: Whether noise is drawn once, when the layer is built, and counted in for good, as the code of the
            paper's authors does, rather than drawn anew at each training step.
        hard: Whether g is the choice itself, with the gradient of the weights (straight-through).
        seed: Seed of the noise.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        logits: Tensor `(..., candidates)`, of the shape that the layer was built for.
        temperature: A scalar above 0.
        training: Whether to draw noise and to return weights rather than a choice.

    Returns:
        float32 tensor of the shape of `logits`; each row adds up to one.

    Raises:
        ValueError: If `noise` is none of these, or `temperature` a number that is not above 0.

    Example:

    >>> layer = GumbelSoftmax(seed=0)
    >>> keras.ops.convert_to_numpy(layer(keras.ops.array([[0.0, 2.0, 1.0]])))
    array([[0., 1., 0.]], dtype=float32)

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Definition 2; Categorical Reparameterization with
        Gumbel-Softmax (https://arxiv.org/abs/1611.01144).
    """

    def __init__(
        self, noise: str = "gumbel", frozen: bool = False, hard: bool = False, seed: int | None = None, **kwargs
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if noise not in NOISES:
            raise ValueError(f"Expected `noise` to be one of {NOISES}. Received: noise={noise!r}.")
        self.noise, self.frozen, self.hard, self.seed = noise, bool(frozen), bool(hard), seed
        self.generator = keras.random.SeedGenerator(seed)

    def build(self, logits_shape):
        """Makes the variable that holds the noise of the current step."""
        self.sample = self.add_weight(
            name="sample",
            shape=tuple(logits_shape),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )
        if self.frozen:
            self.sample.assign(self._draw())

    def _draw(self):
        shape = tuple(self.sample.shape)
        if self.noise == "normal":
            return keras.random.normal(shape, seed=self.generator, dtype="float32")
        if self.noise == "none":
            return ops.zeros(shape, "float32")
        uniform = keras.random.uniform(shape, minval=1e-7, maxval=1.0, seed=self.generator, dtype="float32")
        return uniform if self.noise == "uniform" else -ops.log(-ops.log(uniform * (1 - 2e-7)))

    def resample(self) -> None:
        """Draws the noise of the next step; frozen noise stays."""
        if not self.frozen and self.noise != "none":
            self.sample.assign(self._draw())

    def scores(self, logits):
        """Logits by which the most probable candidate is chosen: frozen noise counts, other noise does not."""
        return ops.cast(logits, "float32") + (self.sample if self.frozen else 0.0)

    def choice(self, logits):
        """One for the candidate with the largest score, zero for the rest."""
        return ops.one_hot(ops.argmax(self.scores(logits), axis=-1), logits.shape[-1], dtype="float32")

    def mixture(self, logits, temperature):
        """g with the noise of the current step, as it is in training."""
        noisy = ops.cast(logits, "float32") + ops.stop_gradient(self.sample.value)
        soft = ops.softmax(noisy / temperature, axis=-1)
        if not self.hard:
            return soft
        chosen = ops.one_hot(ops.argmax(noisy, axis=-1), logits.shape[-1], dtype="float32")
        return ops.stop_gradient(chosen - soft) + soft

    def call(self, logits, temperature=1.0, training=None):
        """Returns g."""
        if isinstance(temperature, (int, float)) and not temperature > 0:
            raise ValueError(f"Expected `temperature` above 0. Received: temperature={temperature}.")
        if not training:
            return self.choice(logits)
        self.resample()
        return self.mixture(logits, temperature)

    def save_own_variables(self, store):
        """The noise, and the state of its generator, which Keras leaves out."""
        store["sample"] = ops.convert_to_numpy(self.sample)
        store["generator"] = ops.convert_to_numpy(self.generator.state)

    def load_own_variables(self, store):
        """Goes on with the noise where it was."""
        self.sample.assign(store["sample"])
        self.generator.state.assign(store["generator"])

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"noise": self.noise, "frozen": self.frozen, "hard": self.hard, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfjointrd")
class DANConv2D(keras.layers.Conv2D):
    """A convolution that learns how many of its filters it needs (Eqn 5), at the price of one convolution.

    Returns sum_j g_j conv(x, W * M_j), where M_j keeps the first `filters // alphas[j]` filters and g are weights by
    Gumbel-softmax. Channel c of conv(x, W) is scaled by the sum of g_j over the candidates that keep it: the same.

    A batch normalisation right behind it undoes that scale, and with it the gradient of g: scale its output instead,
    as `tfjointrd.search` does.

    Args:
        filters: Number of filters.
        kernel_size: As for `keras.layers.Conv2D`.
        alphas: How many times narrower the candidates are: different numbers from 1 on in rising order.
        noise, frozen, hard, seed: As for `GumbelSoftmax`.
        **kwargs: As for `keras.layers.Conv2D`. `channels_first` and activations are not supported.

    Attributes:
        eta: The logits of the candidates, `(len(alphas),)`, zero at first.
        temperature: The temperature of the Gumbel-softmax, a scalar variable above 0, 1 at first. `DAN` sets it.
            In a training of your own, set it each epoch: `layer.temperature.assign(15 * 0.956**epoch)`.

    Call arguments:
        inputs: Tensor `(batch, height, width, channels)`.
        training: Whether g is random weights rather than a choice.

    Returns:
        Tensor `(batch, height, width, filters)`.

    Raises:
        ValueError: If `alphas` are not as described, or one of them leaves no filter.

    Example:

    >>> layer = DANConv2D(32, 3, alphas=(1, 2, 4), padding="same")
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 16)), training=True).shape)
    (1, 8, 8, 32)

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 5.
    """

    def __init__(
        self,
        filters: int,
        kernel_size,
        alphas: Sequence[float] = (1, 2, 4),
        noise: str = "gumbel",
        frozen: bool = False,
        hard: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, **kwargs)
        if self.data_format != "channels_last" or self.activation not in (None, keras.activations.linear):
            raise ValueError(
                "Expected `channels_last` data and no `activation`. Received: "
                f"data_format={self.data_format!r}, activation={self.activation}."
            )
        self.alphas = check_alphas(alphas)
        self.widths = [int(filters / alpha + 1e-9) for alpha in self.alphas]
        if not self.widths[-1]:
            raise ValueError(f"Expected `alphas` that leave one of {filters} filters. Received: alphas={self.alphas}.")
        self.gumbel = GumbelSoftmax(noise, frozen, hard, seed, name="gumbel")

    def build(self, input_shape):
        """Creates kernel, bias and logits."""
        super().build(input_shape)
        shape = (len(self.alphas),)
        self.eta = self.add_weight(name="eta", shape=shape, initializer="zeros", dtype="float32", autocast=False)
        self.temperature = self.add_weight(
            name="temperature", shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
        )
        self.gumbel.build(shape)

    def call(self, inputs, training=None):
        """Returns the mixture of the candidates' outputs."""
        outputs = super().call(inputs)
        weights = self.gumbel(self.eta.value, self.temperature, training=training)
        scale = ops.take(ops.cumsum(weights), last_candidates(self.widths))
        scale = ops.pad(scale, [(0, self.filters - self.widths[0])])  # filters that no candidate has
        return outputs * ops.cast(scale, outputs.dtype)

    def save_own_variables(self, store):
        """Kernel and bias as Keras saves them, and logits and temperature, of which its convolutions know nothing."""
        super().save_own_variables(store)
        if self.built:
            store["eta"], store["temperature"] = self.eta, self.temperature

    def load_own_variables(self, store):
        """What `save_own_variables` saved."""
        super().load_own_variables(store)
        if self.built:
            self.eta.assign(store["eta"])
            self.temperature.assign(store["temperature"])

    def get_config(self):
        """The configuration from which the layer can be made again."""
        gumbel = {key: getattr(self.gumbel, key) for key in ("noise", "frozen", "hard", "seed")}
        return {**super().get_config(), "alphas": self.alphas, **gumbel}


def last_candidates(widths: Sequence[int]) -> np.ndarray:
    """For each of the widest candidate's channels, the position of the last, narrowest candidate that has it.

    Args:
        widths: Widths of the candidates, falling.
    """
    return np.array([sum(width > c for width in widths) - 1 for c in range(widths[0])], "int32")


@keras.saving.register_keras_serializable(package="tfjointrd")
class ChannelGates(keras.layers.Layer):
    """The gates of a whole network: scales the channels of its tensors by the weights of the candidates they are in.

    Args:
        groups: For each group of layers whose widths are chosen together, the rows of `eta` that choose; with several
            rows the widest choice counts.
        alphas: The candidates, in rising order.
        sites: Name -> for each run of channels of the tensor that is scaled there `[group, candidate, length]`: the
            group that chooses, the last candidate that has these channels, and how many they are.
        noise, frozen, hard, seed: As for `GumbelSoftmax`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(..., channels)`.
        site: The name of its site.
        training: Whether to scale by random weights or to choose.

    Returns:
        Tensor of the shape of `inputs`.

    Attributes:
        eta: The logits, `(rows, candidates)`, zero at first.
        temperature: The temperature, a scalar variable, 1 at first.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        alphas: Sequence[float],
        sites: dict[str, Sequence[Sequence[int]]],
        noise: str = "gumbel",
        frozen: bool = False,
        hard: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.groups = [list(rows) for rows in groups]
        self.alphas = check_alphas(alphas)
        self.sites = {name: [list(run) for run in runs] for name, runs in sites.items()}
        self.gumbel = GumbelSoftmax(noise, frozen, hard, seed, name="gumbel")
        entries = len(self.alphas)
        self._index = {
            name: np.repeat([group * entries + last for group, last, _ in runs], [n for *_, n in runs]).astype("int32")
            for name, runs in self.sites.items()
        }
        rows = 1 + max(row for group in self.groups for row in group)
        most = max(map(len, self.groups))
        self._rows = np.array([[*group, *[rows] * (most - len(group))] for group in self.groups], "int32")
        self.rows = rows
        # One step has one mixture, whatever asks for it: gates draw when told to, not when called.
        self.build(None)

    def build(self, input_shape):
        """Creates the logits."""
        if not self.built:
            shape = (self.rows, len(self.alphas))
            self.eta = self.add_weight(name="eta", shape=shape, initializer="zeros", dtype="float32", autocast=False)
            self.temperature = self.add_weight(
                name="temperature", shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
            )
            self.learning = self.add_weight(
                name="learning", shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
            )
            # The candidates that evaluation chooses; -1 leaves it to the logits.
            self.chosen = self.add_weight(
                name="chosen", shape=(len(self.groups),), initializer="zeros", trainable=False, dtype="int"
            )
            self.chosen.assign(np.full(len(self.groups), -1, "int32"))
            self.gumbel.build(shape)
            self.built = True

    def _logits(self):
        """eta, through which no gradient goes while `learning` is 0."""
        eta = self.eta.value
        return self.learning * eta + ops.stop_gradient((1.0 - self.learning) * eta)

    def _reaches(self, weights):
        """For each group and candidate j, the weight of all choices that are at least as wide as j."""
        reaches = ops.cumsum(weights, axis=-1)
        if self._rows.shape[1] == 1 and np.array_equal(self._rows[:, 0], np.arange(self.rows)):
            return reaches
        padded = ops.concatenate([reaches, ops.zeros((1, len(self.alphas)), reaches.dtype)], axis=0)
        return 1.0 - ops.prod(1.0 - ops.take(padded, self._rows, axis=0), axis=1)

    def reaches(self, training=None):
        """For each group and candidate j, the weight of all choices that are at least as wide as j: `(groups, j)`."""
        if training:
            return self._reaches(self.gumbel.mixture(self._logits(), self.temperature))
        likeliest = self._reaches(self.gumbel.choice(self.eta.value))
        told = ops.cumsum(ops.one_hot(self.chosen.value, len(self.alphas), dtype="float32"), axis=-1)
        return ops.where(ops.expand_dims(self.chosen.value >= 0, -1), told, likeliest)

    def likeliest(self):
        """One for the most probable candidate of each group, or the widest of several rows', zero for the rest."""
        return _differences(self._reaches(self.gumbel.choice(self.eta.value)))

    def weights_of_candidates(self, training=None):
        """The weight of each candidate in each group, `(groups, candidates)`."""
        return _differences(self.reaches(training))

    def probabilities(self):
        """The probability of each candidate in each group, `(groups, candidates)`: softmax of the logits."""
        return _differences(self._reaches(ops.softmax(self.gumbel.scores(self._logits()), axis=-1)))

    def call(self, inputs, site, training=None):
        """Returns the scaled channels."""
        scale = ops.take(ops.reshape(self.reaches(training), (-1,)), self._index[site])
        return inputs * ops.cast(scale, inputs.dtype)

    def compute_output_shape(self, input_shape, site=None):
        """The shape of the input."""
        return input_shape

    def compute_output_spec(self, inputs, site, training=None):
        """What `call` returns for symbolic tensors."""
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        gumbel = {key: getattr(self.gumbel, key) for key in ("noise", "frozen", "hard", "seed")}
        own = {"groups": self.groups, "alphas": self.alphas, "sites": self.sites}
        return {**super().get_config(), **own, **gumbel}


def _differences(reaches):
    """Weights of which `reaches` are the sums up to each candidate."""
    return ops.concatenate([reaches[:, :1], reaches[:, 1:] - reaches[:, :-1]], axis=1)
