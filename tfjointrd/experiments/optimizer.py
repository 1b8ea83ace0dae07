"""The optimizer of a recipe."""

from __future__ import annotations

import keras

from tfjointrd.experiments.recipes import Recipe

MOMENTUM = 0.9


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe with its learning-rate schedule, as yet without variables.

    Args:
        recipe: The recipe.
        steps_per_epoch: Number of steps of an epoch.
    """
    schedule = _learning_rate(recipe, steps_per_epoch)
    if recipe.optimizer == "adam":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, beta_2=0.99, epsilon=1e-6)
    else:
        # Keras takes the decay off the weights directly. Momentum, through which the gradient of an L2 penalty
        # would go, multiplies by 1 / (1 - momentum) in the long run.
        decay = recipe.weight_decay / (1 - MOMENTUM)
        optimizer = keras.optimizers.SGD(schedule, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(alpha|beta|bias|gamma)(:0)?$"])
    return optimizer


def _learning_rate(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule | float:
    if recipe.schedule == "steps" and not recipe.milestones:
        return recipe.learning_rate
    if recipe.schedule == "steps":
        rates = [recipe.learning_rate * 0.1**i for i in range(len(recipe.milestones) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps_per_epoch - 1 for epoch in recipe.milestones], rates
        )
    steps = recipe.epochs * steps_per_epoch
    warmup = max(1, round(steps * recipe.warmup))
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warmup), warmup_target=recipe.learning_rate, warmup_steps=warmup
    )
