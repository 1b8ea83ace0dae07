"""Table 1 of Adjoined Networks, and its Figures 1, 4 and 8: beside structured pruning."""

from __future__ import annotations

from tfjointrd.experiments.paper_tables.rows import AN, Group, PaperRow, PaperTable, own_row

_COPIED = "Figures of other authors' methods are those that the paper quotes. Where we have no recipe, none is named."

# === Table 1 and Figure 1: structured pruning, ResNet-50, ImageNet ===

# Method -> million parameters, GMACs, top-1 %. Names that come twice have the parameters behind them.
OTHERS_TABLE_1 = {
    "ABCPruner-0.8": (11.75, 1.89, 73.86),
    "ABCPruner-0.7": (11.24, 1.8, 73.52),
    "GBN-50": (11.91, 1.9, 75.18),
    "GBN-60": (17.6, 2.43, 76.19),
    "DCP": (12.3, 1.82, 74.95),
    "HRank, 16.15 M": (16.15, 2.3, 74.98),
    "HRank, 13.77 M": (13.77, 1.55, 71.98),
    "HRank, 8.27 M": (8.27, 0.98, 69.1),
    "MetaPruning, 19.1 M": (19.1, 2, 75.4),
    "MetaPruning, 12.7 M": (12.7, 1, 73.4),
    "Slimmable Net, 19.2 M": (19.2, 2.3, 74.9),
    "Slimmable Net, 12.8 M": (12.8, 1.1, 72.1),
}
_OURS_TABLE_1 = {  # and our recipe
    "AN-50-Small a4": (2.2, 1.6, 71.82, "an_xresnet50_a4_imagenet2012"),
    "DAN-50": (3.49, 1.7, 73.33, "dan_xresnet50_imagenet2012"),
    "DAN-100": (6.58, 2.15, 75.43, "dan_xresnet100_imagenet2012"),
    "AN-50-Small a2": (7.14, 2.2, 75.1, "an_xresnet50_a2_imagenet2012"),
}


def _stand_in(network: str, data: str, title: str, standard: str) -> Group:
    """What a small network on other images has of the same comparison."""
    end = f"{network}_a2_{data}"
    base = "full network, alone"
    return Group(
        title=f"stand-in: {title}",
        rows=(
            own_row(base, standard),
            own_row("narrow a2, alone", f"narrow_{end}", baseline=base),
            own_row("narrow a2, slimmable", f"slimmable_{end}", "small", base),
            own_row("AN-Small a2", f"an_{end}", "small", base),
            own_row("DAN, cost of a2", f"dan_{end}", "small", base),
            own_row("random widths, cost of a2", f"random_{end}", "small", base),
            own_row("AN-Small a4", f"an_{network}_a4_{data}", "small", base),
        ),
    )


TABLE_1 = PaperTable(
    name="an_table1",
    title="Table 1 and Figure 1: structured pruning of ResNet-50 on ImageNet",
    paper=AN,
    claim="Adjoined networks are about as accurate as pruned ones that have several times their parameters.",
    gain="Gain is the row less the unpruned network of its group; the table itself has none.",
    groups=(
        Group(
            title="ImageNet",
            rows=(
                *(
                    PaperRow(network=name, paper=accuracy, parameters=parameters, macs=1000 * macs)
                    for name, (parameters, macs, accuracy) in OTHERS_TABLE_1.items()
                ),
                *(
                    PaperRow(
                        network=name,
                        paper=accuracy,
                        parameters=parameters,
                        macs=1000 * macs,
                        recipe=recipe,
                        part="small",
                    )
                    for name, (parameters, macs, accuracy, recipe) in _OURS_TABLE_1.items()
                ),
            ),
        ),
        _stand_in("xresnet50", "imagenette", "Imagenette at 64 pixels, XResNet-50", "xresnet50_imagenette"),
        _stand_in("resnet20", "cifar10", "CIFAR-10, ResNet-20", "standard_resnet20_cifar10"),
    ),
    notes=(
        _COPIED,
        "Table 1 prints 71.82 and 1.6 GMACs for AN-50-Small a4, Table 3 71.84 and 1,619 MMACs; the abstract has "
        "71.8 % with 1.8M parameters.",
    ),
)

# === Figure 4 and Figure 8: pruning, ResNet-56, CIFAR-10 ===

# The figures name these methods and print no numbers; ours are the recipes that prune by the same criterion.
_FIGURE_4 = {
    "GAL": "",
    "HRank": "pruned_hrank_resnet56_cifar10",
    "He et al.": "",
    "ENC": "",
    "NISP": "pruned_nisp_resnet56_cifar10",
    "L1": "pruned_l1_resnet56_cifar10",
    "ABC-Pruner": "",
    "CaP": "",
    "KSE": "",
    "FPGM": "pruned_fpgm_resnet56_cifar10",
    "GBN": "",
    "Hinge": "",
}
FIGURE_4 = PaperTable(
    name="an_figure4",
    title="Figures 4 and 8: pruning of ResNet-56 on CIFAR-10",
    paper=AN,
    claim=(
        "AN is 0.8 points more accurate than the next best way to prune a ResNet-56 (Hinge), and smaller than 9 of the "
        "11 networks."
    ),
    gain="Gain is the row less the unpruned network.",
    groups=(
        Group(
            title="CIFAR-10, ResNet-56",
            rows=(
                PaperRow(
                    network="ResNet-56",
                    paper=93.9,
                    parameters=0.84,
                    macs=127,
                    source="Table 3",
                    recipe="standard_resnet56_cifar10",
                ),
                *(PaperRow(network=name, recipe=recipe, baseline="ResNet-56") for name, recipe in _FIGURE_4.items()),
                PaperRow(
                    network="AN-56-Small a2",
                    paper=94.49,
                    parameters=0.24,
                    macs=63,
                    source="Table 3",
                    recipe="an_resnet56_a2_cifar10",
                    part="small",
                    baseline="ResNet-56",
                ),
                PaperRow(network="AN-56-Small a4", recipe="an_resnet56_a4_cifar10", part="small", baseline="ResNet-56"),
                *(
                    own_row(f"pruned by {name}", f"pruned_{end}resnet56_cifar10", baseline="ResNet-56")
                    for name, end in (("l2", ""), ("gamma", "gamma_"), ("lamp", "lamp_"), ("taylor", "taylor_"))
                ),
                own_row("pruned at random", "pruned_random_resnet56_cifar10", baseline="ResNet-56"),
            ),
        ),
        Group(
            title="stand-in: CIFAR-10, ResNet-20",
            rows=(
                own_row("ResNet-20", "standard_resnet20_cifar10"),
                *(
                    own_row(f"pruned by {name}", f"pruned_{end}resnet20_cifar10", baseline="ResNet-20")
                    for name, end in (
                        *(("l2", ""), ("l1", "l1_"), ("fpgm", "fpgm_"), ("nisp", "nisp_"), ("hrank", "hrank_")),
                        *(("taylor", "taylor_"), ("gamma", "gamma_"), ("lamp", "lamp_"), ("random", "random_")),
                        ("l2, step by step while it trains", "gradually_"),
                        ("l2, step by step, with group norms", "gradually_group_"),
                    )
                ),
                own_row("AN-20-Small a2", "an_resnet20_a2_cifar10", "small", "ResNet-20"),
            ),
        ),
    ),
    notes=(
        "The figures print no numbers for the pruned networks. Those of ours are pruned by the same criterion, without "
        "the rest of those methods, to 0.476 of the multiply-accumulates, and begin with a trained network.",
    ),
)

TABLES = (TABLE_1, FIGURE_4)
