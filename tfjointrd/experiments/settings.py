"""What a scale means: epochs, batches, learning rates and image sizes of recipes that have a name."""

from __future__ import annotations

from collections.abc import Mapping

# Tuned once, for ResNet-20 on CIFAR-10 (JPEG q75 copy), and the same for every method, so that a table compares methods
# and not settings. Validation accuracy after 5 epochs, one seed, 2 cores: 79.1 % with learning rate 0.1, warm-up 0.1,
# weight decay 5e-4; 80.1 % with 0.2, 0.2, 5e-4; 79.8 % with 0.2, 0.2, 2.5e-4. Measured with `fit` directly; by recipe:
# `python -m tfjointrd train --data cifar10 --epochs 5 --learning-rate 0.2 --warmup 0.2 --weight-decay 5e-4 --out DIR`.
LAPTOP = {
    "epochs": 15,
    "batch_size": 128,
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "learning_rate": 0.2,
    "warmup": 0.2,
    "weight_decay": 5e-4,
}
# Deep networks take three times as long for a step.
LAPTOP_DEEP = {**LAPTOP, "epochs": 3}
# 1,437 images make few steps an epoch.
LAPTOP_DIGITS = {**LAPTOP, "epochs": 30, "batch_size": 64}
# Photographs at 64 pixels, so that a ResNet-18 can be trained on two cores. Neither timed nor tuned; learning rate and
# batch size keep the ratio of LAPTOP.
LAPTOP_IMAGENETTE = {**LAPTOP, "epochs": 15, "batch_size": 64, "learning_rate": 0.1, "image_size": 64}
# As many images an epoch as Imagenette has, other ones each time.
LAPTOP_IMAGENET = {**LAPTOP_IMAGENETTE, "images": 9469}
# Trainings to convergence that two cores can afford: CIFAR averaged down to 16 pixels, 45,000 images to learn from, and
# 5,000 by which settings were chosen; the test images are scored once, after the last epoch. Warm-up and weight decay
# are those of LAPTOP. There is no such scale for photographs: no images can be held out of a set that is streamed.
STUDY = {**LAPTOP, "epochs": 60, "image_size": 16, "held_out_for_validation": 0.1}
STUDY_DEEP = {**STUDY, "epochs": 40}
STUDY_FULL_SIZE = {**STUDY, "image_size": None}
STUDY_DIGITS = {**STUDY_FULL_SIZE, "batch_size": 64}
# The highest learning rates there, by what is trained: those of 0.1, 0.2 and 0.4 whose networks of 20 layers were the
# most accurate after 15 epochs on the held-out images, one seed (`run tune_standard_resnet20_0.2_cifar10 --scale study`
# and so on, CIFAR-10 (JPEG q75 copy), one NVIDIA H200): standard 77.56, 78.90, 78.72 %; narrow 75.58, 75.68, 76.56 %;
# adjoined, full and small, 76.92 and 75.32, 78.16 and 77.10, 78.62 and 77.08 %. The standard error of one such figure
# is 0.6 points, so that neighbours tell nothing apart. Plain networks of 20 layers were not tuned.
STUDY_RATES = {"standard": 0.2, "plain": 0.2, "dirac": 0.2, "narrow": 0.4, "adjoined": 0.4}
# Of 56 layers, as yet those of 20 but for plain networks, which reached 36.4, 52.4 and 29.5 % at 0.05, 0.1 and 0.2.
STUDY_RATES_DEEP = {"standard": 0.2, "plain": 0.1, "dirac": 0.2, "narrow": 0.4, "adjoined": 0.4}
TUNED_RATES = (0.025, 0.05, 0.1, 0.2, 0.4)
SMOKE = {**LAPTOP, "epochs": 3, "batch_size": 32, "images": 512, "learning_rate": 0.05}
SMOKE_PHOTOGRAPHS = {**SMOKE, "epochs": 2, "batch_size": 16, "images": 48, "image_size": 32}

# Residual Distillation for CIFAR: the authors' code (200 epochs, steps at 100 and 150).
JOINTRD_PAPER = {
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (100, 150),
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "initializer": "fan_out",
}
# Residual Distillation for ImageNet, 224 pixels: the authors' code. The paper has no Imagenette; its settings here are
# those of ImageNet.
JOINTRD_PAPER_IMAGENET = {
    "epochs": 120,
    "batch_size": 512,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (30, 60, 90),
    "learning_rate": 0.2,
    "weight_decay": 1e-4,
    "initializer": "fan_out",
    "image_size": 224,
}
# The tails fade over 60 of 120 epochs.
TAILS_PAPER_IMAGENET = {"tail_floor": 5e-3, "tail_fade": 0.5}
# Weight of the feature loss at 32 pixels, and at 224, where a feature map has more pixels to sum over.
FEATURE_WEIGHT, FEATURE_WEIGHT_IMAGENET = 1e-3, 1e-4
# Adjoined Networks for CIFAR: the authors' code. Its augmentation (rotation, warp, light) is not among ours.
AN_PAPER = {
    "epochs": 100,
    "batch_size": 32,
    "optimizer": "adam",
    "schedule": "one_cycle",
    "learning_rate": 4e-3,
    "warmup": 0.1,
    "weight_decay": 1e-2,
    "initializer": "lecun_normal",
}
AN_PAPER_CIFAR100 = {**AN_PAPER, "epochs": 200}
# For ImageNet, whose crops the authors take from 35 % of the area on, ours from 8 %. Imagenette as above.
AN_PAPER_IMAGENET = {**AN_PAPER, "batch_size": 200, "image_size": 224}
# The term in the divergence of adjoined networks, Eqn 3. At the other scales it is computed from logits.
EPSILON_PAPER = {"kl_epsilon": 1e-6}
# Fine-tuning of pruned networks, which was not tuned. At paper scale it is that of the benchmarks of Torch-Pruning
# (github.com/VainF/Torch-Pruning, benchmarks/main.py): on CIFAR half as many epochs as the network was trained for,
# from a tenth of its learning rate; for ImageNet (scripts/prune/imagenet) 90 epochs from 0.08 in batches of 8 x 256,
# here in smaller batches at the same ratio. The other scales have half or a third as many epochs as the training
# before, from a tenth of its rate. Widths on CIFAR are any number, as in papers; of photographs multiples of 8, which
# phones like.
PRUNED_PAPER = {
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (60, 80),
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "round_to": 1,
}
PRUNED_PAPER_IMAGENET = {
    "epochs": 90,
    "batch_size": 512,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (30, 60),
    "learning_rate": 0.02,
    "weight_decay": 1e-4,
    "image_size": 224,
}
# Criteria beside `l2`, by which recipes of any name prune.
CRITERIA = ("l1", "gamma", "fpgm", "lamp", "nisp", "taylor", "hrank", "random")


def fine_tuned(scales: Mapping[str, Mapping], paper: Mapping) -> dict[str, Mapping]:
    """The settings by which a pruned network is fine-tuned.

    Args:
        scales: Those of the training before, by scale, below paper scale.
        paper: `PRUNED_PAPER` or `PRUNED_PAPER_IMAGENET`.
    """
    steps = {"round_to": paper["round_to"]} if "round_to" in paper else {}
    found = {
        scale: {
            **common,
            **steps,
            "epochs": max(2, round(common["epochs"] / (2 if scale == "study" else 3))),  # `Pruning` needs two
            "learning_rate": round(common["learning_rate"] / 10, 6),
        }
        for scale, common in scales.items()
    }
    return {**found, "paper": paper}


def family(fields: Mapping) -> str:
    """What is trained by a recipe, for the choice of its learning rate at scale `study`: a key of `STUDY_RATES`."""
    if fields["method"] in ("narrow", "narrow_distilled", "narrow_cohort"):
        return "narrow"
    if fields["method"] in ("adjoined", "search", "jointrd_adjoined"):
        return "adjoined"
    if fields["method"] in ("standard", "standard_distilled"):
        return "standard"
    return "dirac" if fields.get("dirac") else "plain"
