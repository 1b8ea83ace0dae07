"""The options of `python -m tfjointrd train`, which are the fields of a recipe."""

from __future__ import annotations

import argparse

DESCRIPTION = (
    "Trains one network and leaves its .keras files and a card.json with everything measured in a folder.\n"
    "After an interruption the same command goes on, to the very same result.\n\n"
    "methods:\n"
    "  standard   the network as it is\n"
    "  plain      the network without its shortcuts\n"
    "  distilled  the plain network, with a trained --teacher's outputs (--kd-weight) or features\n"
    "             (--feature-weight) as targets\n"
    "  standard_distilled  the same with its shortcuts\n"
    "  jointrd    the plain network, taught through the later stages of a trained --teacher; recipes of that name\n"
    "             add --dirac --feature-weight 1e-3\n"
    "  narrow     the network --alpha times narrower after its first stage\n"
    "  narrow_distilled  the same, with a trained --teacher's outputs as targets\n"
    "  adjoined   the full and the narrow network on shared weights; --widths in place of --alpha\n"
    "  search     the same, with widths that are learned: of --alphas, as many MACs as --alpha leaves, or --target\n"
    "  jointrd_adjoined  as adjoined, without shortcuts, taught through the --teacher\n"
    "  transfer   a trained --network (.keras file) with a new classifier, fine-tuned on other --data\n\n"
    "examples:\n"
    "  python -m tfjointrd train --method standard --network resnet20 --data cifar10 --out runs/resnet20\n"
    "  python -m tfjointrd train --method jointrd --network resnet20 --data cifar10 \\\n"
    "      --teacher runs/resnet20/model.keras --dirac --feature-weight 1e-3 --out runs/jointrd20\n"
    "  python -m tfjointrd train --method transfer --network runs/jointrd20/model.keras --data flowers/ \\\n"
    "      --out runs/flowers"
)


def add_training(parser: argparse.ArgumentParser) -> None:
    """What is trained, by which method, and for how long."""
    parser.add_argument("--out", required=True, help="folder for checkpoint, networks and card")
    parser.add_argument("--method", default="standard", help="how to train; see above")
    parser.add_argument(
        "--network", default="resnet20", help="of tfjointrd.models, keras.applications, or a .keras file"
    )
    parser.add_argument("--data", default="digits", help="data set by name, folder of images, or .npz file")
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of the images in pixels; photographs: 224, or what a transferred network was made for",
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs in all")
    parser.add_argument(
        "--batch-size", type=int, default=argparse.SUPPRESS, help="images a step (default: 128; transfer: 64)"
    )
    parser.add_argument("--images", type=int, help="training images an epoch, and validation images; all by default")
    parser.add_argument(
        "--held-out-for-validation",
        type=float,
        default=0.0,
        help="part of the training images to choose settings by; the test images are scored once, at the end",
    )
    parser.add_argument(
        "--scored-on", choices=["test", "held_out"], default="test", help="images that the final accuracy is of"
    )
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd", help="sgd has Nesterov momentum 0.9")
    parser.add_argument(
        "--schedule",
        choices=["one_cycle", "steps"],
        default="one_cycle",
        help="of the learning rate: up and down, or /10",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=argparse.SUPPRESS,
        help="highest learning rate (default: 0.1; transfer: 0.02)",
    )
    parser.add_argument("--warmup", type=float, default=0.1, help="part of the training in which it rises (one_cycle)")
    parser.add_argument("--milestones", type=int, nargs="*", default=[], help="epochs at which it falls (steps)")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="L2 penalty of the kernels (adam: decoupled)")
    parser.add_argument(
        "--initializer",
        choices=["he_normal", "fan_out", "lecun_normal"],
        default="he_normal",
        help="of new weights; fan_out as JointRD's authors, lecun_normal as AN's",
    )
    parser.add_argument("--alpha", type=int, default=2, help="how many times narrower (narrow, adjoined, search)")
    parser.add_argument("--round-to", type=int, default=1, help="multiple that widths are rounded to; 1 rounds down")
    parser.add_argument("--widths", help=".keras file of a narrow network, or `random` (adjoined)")
    _add_search(parser)
    _add_plain(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data order and augmentation")


def _add_search(parser) -> None:
    """What belongs to searches for widths."""
    parser.add_argument("--alphas", type=float, nargs="+", default=[1, 2, 4], help="candidates of a search, rising")
    parser.add_argument(
        "--budget",
        choices=["macs", "parameters", "latency_ms"],
        default="macs",
        help="what a search may spend: as much as --alpha leaves, or --target",
    )
    parser.add_argument(
        "--target", type=float, help="a number of MACs, parameters or milliseconds; up to 1, a part of the first two"
    )
    parser.add_argument("--latency-table", help="JSON file of `benchmark --layers`, or a phone's (budget latency_ms)")
    parser.add_argument("--gamma", type=float, default=0.0, help="weight of the MACs in place of a budget (search)")
    parser.add_argument(
        "--kl-epsilon",
        type=float,
        help="term that the divergence adds to both probabilities; from logits by default (adjoined, search)",
    )
    parser.add_argument(
        "--ties", choices=["shared", "free"], default="shared", help="one gate for layers that are added, or one each"
    )
    parser.add_argument(
        "--gate-warmup", type=float, default=0.2, help="part of the search before widths begin to be learned"
    )
    parser.add_argument(
        "--held-out", type=float, default=0.0, help="part of the training images that only the gates learn from"
    )


def _add_plain(parser) -> None:
    """What belongs to networks without shortcuts and to their teachers."""
    parser.add_argument(
        "--dirac", action="store_true", help="plain convolutions as an identity plus a correction, until the end"
    )
    parser.add_argument(
        "--keep-projections",
        nargs="?",
        const=True,
        default=False,
        choices=["downsampling"],
        help="keep the shortcuts that have weights, or only those that change the resolution",
    )
    parser.add_argument("--teacher", help=".keras file of the trained teacher (distilled, jointrd, jointrd_adjoined)")
    parser.add_argument(
        "--teacher-mode",
        choices=["frozen", "joint"],
        default="frozen",
        help="joint trains the network with shortcuts beside the plain one, without --teacher (jointrd)",
    )
    parser.add_argument(
        "--tail-schedule",
        choices=["cosine", "linear", "constant"],
        default="cosine",
        help="how the weight of the teacher's tails falls from 1; constant is --tail-floor (jointrd)",
    )
    parser.add_argument("--tail-floor", type=float, default=0.5, help="lowest weight of the teacher's tails (jointrd)")
    parser.add_argument("--tail-fade", type=float, default=0.3, help="part of the training to fade over (jointrd)")
    parser.add_argument("--path-scale", choices=["sum", "mean"], default="sum", help="of the paths' losses (jointrd)")
    parser.add_argument(
        "--kd-weight", type=float, default=0.0, help="of the teacher's outputs as targets (distilled, jointrd)"
    )
    parser.add_argument("--temperature", type=float, default=4.0, help="of these targets")
    parser.add_argument(
        "--feature-weight",
        type=float,
        default=0.0,
        help="of the distance to the teacher's last feature map (distilled, jointrd)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """How any training is run, whatever it is of."""
    parser.add_argument("--minutes", type=float, default=5.0, help="between checkpoints within an epoch")
    parser.add_argument("--note", default="", help="what readers of the card should know of the data")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.add_argument(
        "--nondeterministic",
        action="store_true",
        help="allow operations whose results do not repeat bit by bit, where they are faster",
    )
    parser.add_argument(
        "--distribute",
        choices=["mirrored", "processes"],
        help="train on all devices of this machine (TensorFlow), or with the same command in other processes (JAX)",
    )
