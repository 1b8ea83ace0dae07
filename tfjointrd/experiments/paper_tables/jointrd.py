"""The tables of Residual Distillation.

The paper's figures are those of its abstract and first section. What these do not say of Tables 1 to 4 is `None` here.
The rows of Table 3 are the networks and data sets of the authors' scripts.
"""

from __future__ import annotations

from collections.abc import Iterable

from tfjointrd.experiments.paper_tables.rows import JOINTRD, MEMORY, SPEED, Group, PaperRow, PaperTable

ABSTRACT = "abstract"
# The plain networks that the authors' group published: mindspore-ai/hub, "plain-CNN-resnet", 2020-11-17.
MODEL_CARD = "the authors' MindSpore model card, not the table"
_NOT_LISTED = (
    "The paper's figures are taken from its abstract and section 1. "
    'Where the column "paper" says "not listed", these do not give the figure.'
)

# What to call a way to train -> the beginning of its recipe.
WAYS = {
    "plain, alone": "plain_",
    "plain, Dirac convolutions, alone": "dirac_",
    "plain by KD": "kd_",
    "plain, Dirac, by KD": "kd_dirac_",
    "plain, by features": "feature_kd_",
    "plain, Dirac, by features": "feature_kd_dirac_",
    "plain, by routing": "jointrd_ordinary_",
    "plain, Dirac, by routing": "jointrd_routing_",
    "plain by JointRD": "jointrd_",
    "... downsampling shortcuts kept": "jointrd_projections_",
    "by features, downsampling kept": "feature_kd_dirac_projections_",
    "by routing, downsampling kept": "jointrd_routing_projections_",
    "by routing that fades to 0": "jointrd_routing_to_zero_",
    "by routing, teacher trained beside": "jointrd_routing_joint_",
    "control: ResNet, by features": "feature_kd_residual_",
}
_MAIN = ("plain, alone", "plain, Dirac, by KD", "plain by JointRD", "... downsampling shortcuts kept")
_IMAGENET = ("plain, alone", "plain by KD", *_MAIN[1:])
_IN_PAPER = ("plain, alone", "plain by KD", "plain by JointRD")


def _accuracies(
    title: str,
    network: str,
    data: str,
    ways: Iterable[str],
    paper: dict[str, tuple[float, str]] | None = None,
    ours: bool = False,
) -> Group:
    """A network with its shortcuts, and without them in several ways; `paper` has figure and source by row."""
    figures = paper or {}
    residual = f"ResNet-{network.rpartition('resnet')[2]}"
    rows = [PaperRow(network=residual, recipe=f"{network}_{data}", ours=ours, **_printed(figures.get("ResNet")))]
    for way in ways:
        own = ours or way not in _IN_PAPER
        recipe = f"{WAYS[way]}{network}_{data}"
        row = PaperRow(network=way, recipe=recipe, ours=own, baseline=residual, **_printed(figures.get(way)))
        rows.append(row)
    return Group(title=title, rows=tuple(rows))


def _printed(figure: tuple[float, str] | None) -> dict:
    return {} if figure is None else {"paper": figure[0], "source": figure[1]}


def _memory(network: str, data: str, title: str, ours: bool, paper: float | None = None) -> PaperRow:
    residual = f"{title} with shortcuts"
    recipe = f"jointrd_{network}_{data}"
    source = ABSTRACT if paper else ""
    return PaperRow(network=title, recipe=recipe, ours=ours, baseline=residual, paper=paper, source=source)


def _with_its_resnet(network: str, data: str, row: PaperRow) -> Group:
    residual = PaperRow(network=row.baseline, recipe=f"{network}_{data}", ours=row.ours)
    return Group(title=f"{row.network}, {data}", rows=(residual, row))


TABLE_1 = PaperTable(
    name="jointrd_table1",
    title="Table 1: memory of networks without shortcuts on a mobile NPU",
    paper=JOINTRD,
    claim="Without shortcuts a network needs 1.25 times less memory; the shortcuts of ResNet-50 take about 40 % of it.",
    quantity=MEMORY,
    groups=tuple(
        _with_its_resnet(network, data, _memory(network, data, title, ours, paper))
        for network, data, title, ours, paper in (
            ("resnet50", "imagenet2012", "plain ResNet-50", False, 1.25),
            ("resnet20", "cifar10", "plain ResNet-20", True, None),
            ("resnet56", "cifar10", "plain ResNet-56", True, None),
        )
    ),
    notes=(
        "Ours is the ResNet's most live memory over the plain network's, float32, one image, from the cards; additions "
        "have memory of their own. The paper measured a phone's NPU, whose model it does not name.",
        "ResNet-50 at 224 pixels without a training: `python benchmarks/plain_resnet.py` counts 1.43 times less where "
        "additions have memory of their own, 1.10 where they write over an input.",
        _NOT_LISTED,
    ),
)
TABLE_2 = PaperTable(
    name="jointrd_table2",
    title="Table 2: latency of networks without shortcuts on a mobile NPU",
    paper=JOINTRD,
    claim="Without shortcuts a network runs about 1.4 times as fast.",
    quantity=SPEED,
    groups=(Group(title="ImageNet", rows=(PaperRow(network="plain ResNet-50", paper=1.4, source=ABSTRACT),)),),
    notes=(
        "No phone with an NPU was at hand. On one thread of a processor the float32 file is 1.12 times as fast and the "
        "int8 file 1.14 times (`python benchmarks/plain_resnet.py`).",
        _NOT_LISTED,
    ),
)
TABLE_3 = PaperTable(
    name="jointrd_table3",
    title="Table 3: networks without shortcuts on CIFAR-10 and CIFAR-100",
    paper=JOINTRD,
    claim="A plain network that JointRD trained is as accurate as its ResNet.",
    gain="Gain is the row less the ResNet of its group.",
    groups=(
        *(
            _accuracies(
                f"{title}, wide ResNet-{depth}",
                f"wide_resnet{depth}",
                data,
                _MAIN,
                {"plain by JointRD": (figure, MODEL_CARD)} if figure else None,
            )
            for data, title, figures in (
                ("cifar10", "CIFAR-10", {18: 95.36, 34: 94.96, 50: 94.46}),
                ("cifar100", "CIFAR-100", dict.fromkeys((18, 34, 50))),
            )
            for depth, figure in figures.items()
        ),
        _accuracies("stand-in: CIFAR-10, ResNet-20", "resnet20", "cifar10", WAYS, ours=True),
        _accuracies("stand-in: CIFAR-10, ResNet-56", "resnet56", "cifar10", WAYS, ours=True),
    ),
    notes=(
        "The paper's networks are four and more times as wide as the stand-ins, which two processor cores can train.",
        _NOT_LISTED,
    ),
)
TABLE_4 = PaperTable(
    name="jointrd_table4",
    title="Table 4: networks without shortcuts on ImageNet",
    paper=JOINTRD,
    claim="A plain ResNet-50 reaches 76.08 % by JointRD, its ResNet 76.11 %, and by KD it reaches 71.47 %.",
    gain="Gain is the row less the ResNet of its group.",
    groups=(
        *(
            _accuracies(f"ImageNet, ResNet-{depth}", f"resnet{depth}", "imagenet2012", _IMAGENET, figures)
            for depth, figures in (
                (
                    50,
                    {
                        "ResNet": (76.11, ABSTRACT),
                        "plain by JointRD": (76.08, ABSTRACT),
                        "plain by KD": (71.47, "section 1"),
                    },
                ),
                (34, None),
                (18, None),
            )
        ),
        *(
            _accuracies(
                f"stand-in: Imagenette at 64 pixels, ResNet-{depth}",
                f"resnet{depth}",
                "imagenette",
                _IMAGENET,
                ours=True,
            )
            for depth in (18, 50)
        ),
    ),
    notes=(
        "ImageNet needs a registration and an accelerator. Imagenette, ten of its classes at 64 pixels, stands in.",
        _NOT_LISTED,
    ),
)


def _transferred(data: str, title: str) -> Group:
    run = "python -m tfjointrd train --method transfer --network runs/{}_imagenet2012/model.keras --data " + data
    residual = PaperRow(network="ResNet-50", command=run.format("resnet50"))
    plain = PaperRow(network="plain by JointRD", command=run.format("jointrd_resnet50"), baseline="ResNet-50")
    return Group(title=title, rows=(residual, plain))


TRANSFER_DATA = "imagenette128"
_TRANSFER = (
    "python -m tfjointrd train --method transfer --network saved_models/{}_cifar10/model.keras "
    f"--data {TRANSFER_DATA} --image-size 32 --epochs 10 --batch-size 64 --learning-rate 0.02"
)
TRANSFER = PaperTable(
    name="jointrd_transfer",
    title="Transfer: networks without shortcuts, fine-tuned on other photographs",
    paper=JOINTRD,
    claim="Fine-tuned on MIT-67 and Caltech-101, the plain network is slightly more accurate than its ResNet-50.",
    gain="Gain is the row less the ResNet of its group.",
    groups=(
        _transferred("mit67", "MIT-67, from ImageNet"),
        _transferred("caltech101", "Caltech-101, from ImageNet"),
        Group(
            title="stand-in: Imagenette at 32 pixels, from CIFAR-10, ResNet-20",
            rows=tuple(
                PaperRow(
                    network=title,
                    recipe=f"transfer_{network}_{TRANSFER_DATA}",
                    command=_TRANSFER.format(network),
                    ours=True,
                    baseline="" if network == "resnet20" else "ResNet-20",
                )
                for title, network in (
                    ("ResNet-20", "resnet20"),
                    ("plain, alone", "plain_resnet20"),
                    ("plain by JointRD", "jointrd_resnet20"),
                )
            ),
        ),
    ),
    notes=(
        "The paper says in its abstract that the plain network is slightly better. Its figures are not listed here.",
        "The stand-in begins with the networks of saved_models, which learned CIFAR-10 for 15 epochs.",
    ),
)


def _combined(title: str, network: str, data: str, kd: bool, ours: bool) -> Group:
    """KD and pruning on top, of the ResNet and of the plain network."""
    end = f"{network}_{data}"
    rows = [
        ("ResNet, pruned", f"pruned_{end}", ""),
        ("plain, alone, pruned", f"pruned_plain_{end}", "ResNet, pruned"),
        ("plain by JointRD, pruned by JointRD", f"pruned_jointrd_{end}", "ResNet, pruned"),
        ("ResNet, pruned, then KD", f"pruned_kd_{end}", "ResNet, pruned"),
    ]
    if kd:
        rows += [
            ("plain, Dirac, by routing", f"jointrd_routing_{end}", ""),
            ("... and KD", f"jointrd_routing_kd_{end}", "plain, Dirac, by routing"),
            ("plain by JointRD", f"jointrd_{end}", ""),
            ("plain by JointRD and KD", f"jointrd_kd_{end}", "plain by JointRD"),
        ]
    made = [PaperRow(network=name, recipe=recipe, baseline=baseline, ours=ours) for name, recipe, baseline in rows]
    return Group(title=title, rows=tuple(made))


COMBINED = PaperTable(
    name="jointrd_combined",
    title="KD and pruning on top of JointRD",
    paper=JOINTRD,
    claim="A plain network benefits from pruning and from KD as much as its ResNet does (CIFAR-100 and ImageNet).",
    gain="Gain is the row less the one that it is compared with: the pruned ResNet, or the same training without KD.",
    groups=(
        _combined("stand-in: CIFAR-100, ResNet-56", "resnet56", "cifar100", kd=False, ours=True),
        _combined("stand-in: Imagenette at 64 pixels, ResNet-50", "resnet50", "imagenette", kd=True, ours=True),
        _combined("stand-in: CIFAR-10, ResNet-56", "resnet56", "cifar10", kd=True, ours=True),
        _combined("stand-in: CIFAR-10, ResNet-20", "resnet20", "cifar10", kd=True, ours=True),
    ),
    notes=(
        "The paper names CIFAR-100 and ImageNet, and for pruning its reference [17]. Neither its figures nor the "
        "pruning procedure were at hand, so there is no row of the paper's. Ours prunes to 0.476 of the "
        "multiply-accumulates.",
    ),
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TRANSFER, COMBINED)
