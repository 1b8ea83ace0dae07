"""The command line: `python -m tfjointrd demo | train | export | report`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

DESCRIPTION = """\
Train networks with shortcuts and full width, deploy them without.

  python -m tfjointrd demo                 the whole way on small images, in a few minutes
  python -m tfjointrd train --help         train one network, or continue an interrupted training
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
    try:
        options.command(options)
    except KeyboardInterrupt as interruption:
        command = shlex.join(["python", "-m", "tfjointrd", *arguments])
        print(f"\n{interruption}\nContinue with: {command}", file=sys.stderr)
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
    for add in (_add_demo, _add_train, _add_export, _add_report):
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


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train one network",
        formatter_class=_Help,
        description=(
            "Trains one network and leaves its .keras files and a card.json with everything measured in a folder.\n"
            "After an interruption the same command goes on from the last finished epoch.\n\n"
            "methods:\n"
            "  standard   the network as it is\n"
            "  plain      the network without its shortcuts\n"
            "  jointrd    the plain network, taught through the later stages of a trained --teacher\n"
            "  narrow     the network --alpha times narrower after its first stage\n"
            "  adjoined   the full and the narrow network on shared weights\n\n"
            "example:\n"
            "  python -m tfjointrd train --method standard --network resnet20 --data cifar10 --out runs/resnet20\n"
            "  python -m tfjointrd train --method jointrd --network resnet20 --data cifar10 \\\n"
            "      --teacher runs/resnet20/model.keras --out runs/jointrd20"
        ),
    )
    parser.add_argument("--out", required=True, help="folder for checkpoint, networks and card")
    parser.add_argument("--method", default="standard", help="how to train; see above")
    parser.add_argument(
        "--network", default="resnet20", help="of tfjointrd.models, keras.applications, or a .keras file"
    )
    parser.add_argument("--data", default="digits", help="data set by name, folder of images, or .npz file")
    parser.add_argument("--epochs", type=int, default=10, help="epochs in all")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="decay of the kernels")
    parser.add_argument("--alpha", type=int, default=2, help="how many times narrower (narrow, adjoined)")
    parser.add_argument("--teacher", help=".keras file of the trained teacher (jointrd)")
    parser.add_argument("--tail-floor", type=float, default=0.5, help="lowest weight of the teacher's tails (jointrd)")
    parser.add_argument("--tail-fade", type=float, default=0.3, help="part of the training to fade over (jointrd)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data order and augmentation")
    parser.add_argument("--note", default="", help="what readers of the card should know of the data")
    parser.set_defaults(command=_train)


def _train(options) -> None:
    from dataclasses import fields

    from tfjointrd.experiments import Recipe, run

    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    finished = run(recipe, options.out, note=options.note)
    for name, entry in finished.card["networks"].items():
        print(f"{finished.path(name)}: accuracy {entry['accuracy']:.4f}, {entry['parameters']:,} parameters")


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
            "Given folders of finished trainings instead, exports their networks as float32 and int8 .tflite files, "
            "measures these too,\nand prints one table.\n\n"
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
    from tfjointrd.experiments.recipe import build_network
    from tfjointrd.experiments.runner import finished_run
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
