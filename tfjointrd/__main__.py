"""The command line: `python -m tfjointrd demo | recipes | run | train | export | report`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

DESCRIPTION = """\
Train networks with shortcuts and full width, deploy them without.

  python -m tfjointrd demo                 the whole way on small images, in a few minutes
  python -m tfjointrd recipes              the trainings that have a name, and how far they are
  python -m tfjointrd run RECIPE           one of them, or what is left of it
  python -m tfjointrd train --help         train a network of your own choice
  python -m tfjointrd export --help        write a .tflite file and check it against its network
  python -m tfjointrd report --help        parameters, multiply-accumulates and memory, layer by layer
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line; that of the process by default.

    Returns:
        The exit status: 0, 1 after an error in what was asked for, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.line = shlex.join(["python", "-m", "tfjointrd", *arguments])
    try:
        options.command(options)
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption}\nContinue with: {options.line}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ArithmeticError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfjointrd", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_recipes, _add_run, _add_train, _add_export, _add_report):
        add(commands)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as written, and every option with its default."""


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole way on small images: train, shrink, export, compare",
        formatter_class=_Help,
        description=(
            "Trains a ResNet, its plain twin alone and by JointRD, a narrow network alone and an adjoined pair on "
            "handwritten digits;\nexports all of them, float32 and int8, checks the files, and prints one table. A "
            "few minutes on two cores."
        ),
    )
    parser.add_argument("--out", default="demo", help="folder for networks, files, table and figure")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each training")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data order")
    parser.set_defaults(command=_demo)


def _demo(options) -> None:
    from tfjointrd.experiments.demo import demo

    demo(options.out, epochs=options.epochs, seed=options.seed)


def _add_recipes(commands) -> None:
    parser = commands.add_parser(
        "recipes",
        help="the trainings that have a name",
        formatter_class=_Help,
        description="Lists the recipes, and beside each how far it is in a folder.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="only those that match, e.g. '*_cifar10'")
    parser.add_argument("--out", default="runs", help="folder of the trainings")
    parser.set_defaults(command=_recipes)


def _recipes(options) -> None:
    from tfjointrd.experiments import catalog, named

    names = catalog.names(options.pattern)
    if not names:
        raise ValueError(f"Expected `pattern` to match a recipe. Received: pattern='{options.pattern}'.")
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {named.state(name, options.out)}".rstrip())


def _add_run(commands) -> None:
    parser = commands.add_parser(
        "run",
        help="train by a recipe that has a name",
        formatter_class=_Help,
        description=(
            "Trains by a recipe, its teacher first if it has one, and leaves card and networks in a folder of the "
            "recipe's name.\nThe same command goes on after any interruption, to the very same result, and returns at "
            "once when all is finished.\n\n"
            "scales:\n"
            "  smoke    seconds, to see that it runs\n"
            "  laptop   minutes on digits, an hour or so on CIFAR-10 with two cores\n"
            "  paper    the papers' own settings\n\n"
            "example:\n"
            "  python -m tfjointrd run an_resnet20_a2_cifar10 --scale laptop --seeds 0 1 2 --out runs"
        ),
    )
    parser.add_argument("recipe", help="its name; `python -m tfjointrd recipes` lists them")
    parser.add_argument("--scale", choices=["smoke", "laptop", "paper"], default="laptop", help="how large")
    parser.add_argument("--out", default="runs", help="folder of all trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training each")
    _add_common(parser)
    parser.set_defaults(command=_run)


def _add_common(parser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="between checkpoints within an epoch")
    parser.add_argument("--note", default="", help="what readers of the card should know of the data")
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


def _group(options):
    from tfjointrd.experiments.runner import make_repeatable
    from tfjointrd.training import distribute

    if not options.nondeterministic:
        make_repeatable()  # before processes meet, which computes
    return {"mirrored": distribute.mirrored, "processes": distribute.processes}.get(options.distribute, lambda: None)()


def _run(options) -> None:
    from tfjointrd.experiments import run_named

    finished = run_named(
        options.recipe,
        options.scale,
        options.out,
        options.seeds,
        note=options.note,
        minutes=options.minutes,
        deterministic=not options.nondeterministic,
        group=_group(options),
    )
    _print_accuracies(finished)


def _print_accuracies(finished) -> None:
    for name, entry in finished.card["networks"].items():
        print(f"{finished.path(name)}: accuracy {finished.accuracy(name):.4f}, {entry['parameters']:,} parameters")


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train one network",
        formatter_class=_Help,
        description=(
            "Trains one network and leaves its .keras files and a card.json with everything measured in a folder.\n"
            "After an interruption the same command goes on, to the very same result.\n\n"
            "methods:\n"
            "  standard   the network as it is\n"
            "  plain      the network without its shortcuts\n"
            "  distilled  the plain network, with a trained --teacher's outputs (--kd-weight) or features\n"
            "             (--feature-weight) as targets\n"
            "  jointrd    the plain network, taught through the later stages of a trained --teacher\n"
            "  narrow     the network --alpha times narrower after its first stage\n"
            "  narrow_distilled  the same, with a trained --teacher's outputs as targets\n"
            "  adjoined   the full and the narrow network on shared weights; --widths in place of --alpha\n"
            "  search     the same, with widths that are learned: of --alphas, as many MACs as --alpha leaves\n"
            "  jointrd_adjoined  as adjoined, without shortcuts, taught through the --teacher\n"
            "  transfer   a trained --network (.keras file) with a new classifier, fine-tuned on other --data\n\n"
            "examples:\n"
            "  python -m tfjointrd train --method standard --network resnet20 --data cifar10 --out runs/resnet20\n"
            "  python -m tfjointrd train --method jointrd --network resnet20 --data cifar10 \\\n"
            "      --teacher runs/resnet20/model.keras --out runs/jointrd20\n"
            "  python -m tfjointrd train --method transfer --network runs/jointrd20/model.keras --data flowers/ \\\n"
            "      --out runs/flowers"
        ),
    )
    parser.add_argument("--out", required=True, help="folder for checkpoint, networks and card")
    parser.add_argument("--method", default="standard", help="how to train; see above")
    parser.add_argument(
        "--network", default="resnet20", help="of tfjointrd.models, keras.applications, or a .keras file"
    )
    parser.add_argument("--data", default="digits", help="data set by name, folder of images, or .npz file")
    parser.add_argument(
        "--image-size", type=int, help="side of photographs in pixels; 224, or what a transferred network was made for"
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs in all")
    parser.add_argument(
        "--batch-size", type=int, default=argparse.SUPPRESS, help="images a step (default: 128; transfer: 64)"
    )
    parser.add_argument("--images", type=int, help="training images an epoch, and validation images; all by default")
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
    parser.add_argument("--alpha", type=int, default=2, help="how many times narrower (narrow, adjoined)")
    parser.add_argument("--round-to", type=int, default=1, help="multiple that widths are rounded to; 1 rounds down")
    parser.add_argument("--alphas", type=float, nargs="+", default=[1, 2, 4], help="candidates of a search, rising")
    parser.add_argument("--gamma", type=float, default=0.0, help="weight of the MACs in place of that budget (search)")
    parser.add_argument("--widths", help=".keras file of a narrow network, or `random` (adjoined)")
    _add_plain(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data order and augmentation")
    _add_common(parser)
    parser.set_defaults(command=_train)


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


def _train(options) -> None:
    from dataclasses import fields

    from tfjointrd.experiments import Recipe, run, transfer

    known = {field.name for field in fields(Recipe)} & vars(options).keys()
    chosen = {name: getattr(options, name) for name in known}
    arguments = {
        "note": options.note,
        "minutes": options.minutes,
        "deterministic": not options.nondeterministic,
        "command": options.line,
    }
    if chosen["method"] == "transfer":
        network, images = chosen.pop("network"), chosen.pop("data")
        finished = transfer(network, images, options.out, **chosen, **arguments, group=_group(options))
    else:
        finished = run(Recipe(**chosen), options.out, **arguments, group=_group(options))
    _print_accuracies(finished)


def _add_export(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a .tflite file and check it",
        formatter_class=_Help,
        description=(
            "Converts a .keras network to a .tflite file of builtin operators, runs it in the LiteRT interpreter and "
            "compares it with\nthe network. A file that disagrees is not kept. int8 needs images to calibrate on: the "
            "training images of --data."
        ),
    )
    parser.add_argument("network", help="a .keras file")
    parser.add_argument("--out", help="the .tflite file; beside the network by default")
    parser.add_argument("--quantization", choices=["none", "int8"], default="none", help="none keeps float32")
    parser.add_argument("--data", help="data set to calibrate on, and to measure accuracy with")
    parser.set_defaults(command=_export)


def _export(options) -> None:
    from tfjointrd import data, export

    network = _load(options.network)
    quantization = None if options.quantization == "none" else options.quantization
    suffix = "" if quantization is None else f"_{quantization}"
    path = options.out or str(Path(options.network).with_suffix("")) + f"{suffix}.tflite"
    train, validation = data.load(options.data, augment=False) if options.data else (None, None)
    print(export.tflite(network, path, quantization=quantization, representative_data=train))
    if validation is not None:
        print(f"accuracy of the file on {options.data}: {export.accuracy(path, validation):.4f}")


def _add_report(commands) -> None:
    parser = commands.add_parser(
        "report",
        help="what a network costs, layer by layer",
        formatter_class=_Help,
        description=(
            "Prints parameters, multiply-accumulates, output and live memory of each layer of a network.\n"
            "Given folders of finished trainings instead, prints one table of what their cards say, and times their "
            ".tflite files\non this machine.\n\n"
            "examples:\n"
            "  python -m tfjointrd report resnet20\n"
            "  python -m tfjointrd report runs/resnet20 runs/jointrd20"
        ),
    )
    parser.add_argument(
        "network", nargs="+", help="a .keras file, a network of tfjointrd.models or keras.applications, or a folder"
    )
    parser.add_argument("--data", default="cifar10", help="whose image size and classes to build a named network for")
    parser.set_defaults(command=_report)


def _report(options) -> None:
    from tfjointrd import data, report
    from tfjointrd.experiments.folder import finished_run
    from tfjointrd.experiments.methods import build_network
    from tfjointrd.experiments.table import markdown, measure_run

    folders = [name for name in options.network if Path(name).is_dir()]
    if not folders:
        for name in options.network:
            report.summary(build_network(name, data.info(options.data)))
        return
    if folders != options.network:
        raise ValueError(f"Expected either networks or folders of finished trainings. Received: {options.network}.")
    print(markdown([row for folder in folders for row in measure_run(finished_run(folder))]))


def _load(path: str):
    import keras

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected `network` to be a .keras file that exists. Received: network='{path}'.")
    return keras.saving.load_model(path, compile=False)


if __name__ == "__main__":
    sys.exit(main())
