"""The tables of Adjoined Networks, and what its text says of its figures."""

from __future__ import annotations

from tfjointrd.experiments.paper_tables.rows import AN, Group, PaperRow, PaperTable

DEPTHS = (20, 32, 44, 56, 110)
_COPIED = "Figures of other authors' methods are those that the paper quotes. Where we have no recipe, none is named."
_STANDARD = "Gain is the row less the standard network of its group."

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


def _own(network: str, recipe: str, part: str = "model", baseline: str = "") -> PaperRow:
    return PaperRow(network=network, recipe=recipe, part=part, baseline=baseline, ours=True)


def _stand_in(network: str, data: str, title: str, standard: str) -> Group:
    """What a small network on other images has of the same comparison."""
    end = f"{network}_a2_{data}"
    base = "full network, alone"
    return Group(
        title=f"stand-in: {title}",
        rows=(
            _own(base, standard),
            _own("narrow a2, alone", f"narrow_{end}", baseline=base),
            _own("narrow a2, slimmable", f"slimmable_{end}", "small", base),
            _own("AN-Small a2", f"an_{end}", "small", base),
            _own("DAN, cost of a2", f"dan_{end}", "small", base),
            _own("random widths, cost of a2", f"random_{end}", "small", base),
            _own("AN-Small a4", f"an_{network}_a4_{data}", "small", base),
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
                    _own(f"pruned by {name}", f"pruned_{end}resnet56_cifar10", baseline="ResNet-56")
                    for name, end in (("l2", ""), ("gamma", "gamma_"), ("lamp", "lamp_"), ("taylor", "taylor_"))
                ),
                _own("pruned at random", "pruned_random_resnet56_cifar10", baseline="ResNet-56"),
            ),
        ),
        Group(
            title="stand-in: CIFAR-10, ResNet-20",
            rows=(
                _own("ResNet-20", "standard_resnet20_cifar10"),
                *(
                    _own(f"pruned by {name}", f"pruned_{end}resnet20_cifar10", baseline="ResNet-20")
                    for name, end in (
                        *(("l2", ""), ("l1", "l1_"), ("fpgm", "fpgm_"), ("nisp", "nisp_"), ("hrank", "hrank_")),
                        *(("taylor", "taylor_"), ("random", "random_")),
                    )
                ),
                _own("AN-20-Small a2", "an_resnet20_a2_cifar10", "small", "ResNet-20"),
            ),
        ),
    ),
    notes=(
        "The figures print no numbers for the pruned networks. Those of ours are pruned by the same criterion, without "
        "the rest of those methods, to 0.476 of the multiply-accumulates, and begin with a trained network.",
    ),
)

# === Table 2: distillation, CIFAR-10 ===

# Method -> its recipes' beginning, and top-1 of AN-110, -56, -44, -32 and -20.
_TABLE_2 = {
    "RKD": ("rkd", (94.11, 93.72, 93.41, 92.5, 92.15)),
    "VID": ("vid", (93.6, 93.23, 92.86, 92.41, 91.6)),
    "FT": ("ft", (93.76, 93.33, 93.17, 92.49, 91.2)),
    "CC": ("cc", (93.6, 93.22, 92.95, 92.46, 91.5)),
    "DML": ("", (93.5, 93.3, 93.2, 92.59, 91.35)),
    "KR": ("review_kd", (94.08, 93.85, 93.51, 93.45, 92.3)),
    "KDCR": ("", (94.26, 93.7, 93.4, 92.9, 91.85)),
}
_AN_TABLE_2 = (95.0, 94.49, 94.01, 93.45, 92.45)


def _distilled(depth: int) -> Group:
    place = DEPTHS[::-1].index(depth)
    end, alone = f"resnet{depth}_a2_cifar10", f"the same network alone, depth {depth}"
    return Group(
        title=f"AN-{depth}-Small",
        rows=(
            _own(alone, f"narrow_{end}"),
            *(
                PaperRow(
                    network=name,
                    paper=figures[place],
                    recipe=f"{begin}_narrow_{end}" if begin else "",
                    baseline="AN",
                )
                for name, (begin, figures) in _TABLE_2.items()
            ),
            _own("KD (Hinton's)", f"kd_narrow_{end}", baseline="AN"),
            PaperRow(network="AN", paper=_AN_TABLE_2[place], recipe=f"an_{end}", part="small"),
        ),
    )


TABLE_2 = PaperTable(
    name="an_table2",
    title="Table 2: the small network by seven ways to distil, and by AN, on CIFAR-10",
    paper=AN,
    claim="At every depth the small network of a pair is more accurate than the same network distilled.",
    gain="Gain is the row less AN: below 0 where the claim holds.",
    groups=tuple(_distilled(depth) for depth in DEPTHS),
    notes=(
        "DML is `jrd.Cohort(networks, 'dml')`, and KDCR, the paper's name for the online distillation of Guo et al., "
        "is `jrd.Cohort(networks, 'kdcl')`. Neither has a recipe yet. KR is knowledge review, our `review_kd`.",
        "Teachers are the trained ResNets of the same depth, as in the paper.",
        "At depth 32 KR has 93.45 in the table, as AN has; the text says that AN is better than all.",
    ),
)

# === Table 3: compression ===

# Depth -> standard: million parameters, MMACs, top-1; small: the same.
_TABLE_3 = {
    20: ((0.27, 40, 92.5), (0.07, 21, 92.45)),
    32: ((0.46, 69, 93.1), (0.13, 35, 93.45)),
    44: ((0.65, 97, 93.5), (0.19, 49, 94.01)),
    56: ((0.84, 127, 93.9), (0.24, 63, 94.49)),
    110: ((1.72, 253, 94.3), (0.49, 127, 95.0)),
}


def _costs(figures: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("parameters", "macs", "paper"), figures, strict=True))


def _compressed(depth: int) -> Group:
    standard, small = _TABLE_3[depth]
    base, end = f"ResNet-{depth}", f"resnet{depth}_a2_cifar10"
    return Group(
        title=f"CIFAR-10, depth {depth}",
        rows=(
            PaperRow(network=base, recipe=f"standard_resnet{depth}_cifar10", **_costs(standard)),
            _own("the small network alone", f"narrow_{end}", baseline=base),
            PaperRow(network=f"AN-{depth}-Small a2", recipe=f"an_{end}", part="small", baseline=base, **_costs(small)),
        ),
    )


def _imagenet(network: str, recipe: str, figures, baseline: str = "") -> PaperRow:
    part = "model" if recipe.startswith("xresnet") else "small"
    return PaperRow(network=network, recipe=f"{recipe}_imagenet2012", part=part, baseline=baseline, **_costs(figures))


TABLE_3 = PaperTable(
    name="an_table3",
    title="Table 3: compression by AN on CIFAR-10 and ImageNet",
    paper=AN,
    claim=(
        "With 3.5 to 4 times fewer parameters and half the multiply-accumulates, 4 of 5 small networks are 0.5 to 0.8 "
        "points better than their base."
    ),
    gain=_STANDARD,
    groups=(
        *map(_compressed, DEPTHS),
        Group(
            title="ImageNet, ResNet-50",
            rows=(
                _imagenet("ResNet-50", "xresnet50", (25.5, 4774, 76.1)),
                _imagenet("AN-50-Small a2", "an_xresnet50_a2", (7.14, 2202, 75.1), "ResNet-50"),
                _imagenet("AN-50-Small a4", "an_xresnet50_a4", (2.2, 1619, 71.84), "ResNet-50"),
                _imagenet("DAN-50", "dan_xresnet50", (3.49, 1745, 73.33), "ResNet-50"),
            ),
        ),
        Group(
            title="ImageNet, ResNet-100",
            rows=(
                _imagenet("ResNet-100", "xresnet100", (46.99, 8473, 77.3)),
                _imagenet("AN-100-Small a4", "an_xresnet100_a4", (3.86, 2681, 74.51), "ResNet-100"),
                _imagenet("DAN-100", "dan_xresnet100", (6.58, 2153, 75.43), "ResNet-100"),
            ),
        ),
    ),
    notes=(
        "The paper cuts figures off after the digits shown and counts kernels only; our parameters include batch "
        "normalisations and biases. Its column GFLOPs holds millions. `python benchmarks/paper_arithmetic.py` has the "
        "arithmetic of every row.",
    ),
)

# === Table 4: regularisation ===


def _regularised(title: str, network: str, data: str, alphas: dict[int, float], standard: float, base: str) -> Group:
    rows = [PaperRow(network="standard", paper=standard, recipe=base)]
    for alpha, full in alphas.items():
        recipe = f"an_{network}_a{alpha}_{data}"
        row = PaperRow(network=f"AN-Full a{alpha}", paper=full, recipe=recipe, part="full", baseline="standard")
        rows.append(row)
    return Group(title=title, rows=tuple(rows))


_FULL = {20: 93.51, 32: 94.39, 44: 94.64, 56: 95.01, 110: 95.4}
TABLE_4 = PaperTable(
    name="an_table4",
    title="Table 4: the full network of a pair, and the same network alone",
    paper=AN,
    claim="Adjoining regularises: the full network is more accurate than the same network trained alone.",
    gain=_STANDARD,
    groups=(
        *(
            _regularised(
                f"CIFAR-10, ResNet-{depth}",
                f"resnet{depth}",
                "cifar10",
                {2: _FULL[depth]},
                _TABLE_3[depth][0][2],
                f"standard_resnet{depth}_cifar10",
            )
            for depth in DEPTHS
        ),
        *(
            _regularised(f"CIFAR-100, {title}", network, "cifar100", {alpha: full}, standard, f"{network}_cifar100")
            for title, network, alpha, full, standard in (
                ("ResNet-50", "xresnet50", 8, 77.36, 76.8),
                ("ResNet-18", "xresnet18", 2, 74.8, 74.3),
                ("DenseNet-121", "densenet121", 4, 80.8, 79.0),
            )
        ),
        _regularised(
            "ImageNet, ResNet-50",
            "xresnet50",
            "imagenet2012",
            {2: 76.87, 4: 75.84},
            76.1,
            "xresnet50_imagenet2012",
        ),
    ),
)

# === DAN ===

DAN = PaperTable(
    name="an_dan",
    title="DAN-50 and DAN-100 (Tables 1 and 3), and widths searched on small images",
    paper=AN,
    claim="Widths that are learned layer by layer are better than one width for all layers.",
    gain="Gain is the row less the one of uniform widths.",
    groups=(
        Group(
            title="ImageNet, 50 layers",
            rows=(
                _imagenet("AN-50-Small a4", "an_xresnet50_a4", (2.2, 1619, 71.84)),
                _imagenet("DAN-50", "dan_xresnet50", (3.49, 1745, 73.33), "AN-50-Small a4"),
            ),
        ),
        Group(
            title="ImageNet, 100 layers",
            rows=(
                _imagenet("AN-100-Small a4", "an_xresnet100_a4", (3.86, 2681, 74.51)),
                _imagenet("DAN-100", "dan_xresnet100", (6.58, 2153, 75.43), "AN-100-Small a4"),
            ),
        ),
        *(
            Group(
                title=f"stand-in: {title}, at the multiply-accumulates of a2",
                rows=(
                    _own("uniform widths (AN-Small a2)", f"an_{end}", "small"),
                    _own("searched widths (DAN)", f"dan_{end}", "small", "uniform widths (AN-Small a2)"),
                    _own("random widths", f"random_{end}", "small", "uniform widths (AN-Small a2)"),
                    _own("from the search itself", f"search_{end}", "small", "uniform widths (AN-Small a2)"),
                ),
            )
            for title, end in (
                ("CIFAR-10, ResNet-20", "resnet20_a2_cifar10"),
                ("CIFAR-10, ResNet-56", "resnet56_a2_cifar10"),
                ("Imagenette at 64 pixels, XResNet-50", "xresnet50_a2_imagenette"),
            )
        ),
    ),
    notes=(
        "DAN-50 has 1.6 times the parameters of AN-50-Small a4 and 1.08 times its MACs, so that the paper's rows do "
        "not compare widths at equal cost. The stand-ins do.",
        "Section 1 of the paper says 75.7 % for ResNet-50 with DAN, its tables 73.33 %.",
    ),
)

TABLES = (TABLE_1, FIGURE_4, TABLE_2, TABLE_3, TABLE_4, DAN)
