"""The command line: `tfjointrd COMMAND` or `python -m tfjointrd COMMAND`, as `demo`, `run`, `train` or `export`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tfjointrd import command_line_options as training_options
from tfjointrd.experiments.recipes import SCALES
from tfjointrd.file_commands import add_export, add_page, quantizations, report_files
from tfjointrd.prune_command import add_prune
from tfjointrd.silence import silence_tensorflow
from tfjointrd.tables_command import add_tables

DESCRIPTION = """\
Train networks with shortcuts and full width, deploy them without.

  python -m tfjointrd demo                 the whole way on small images, in a few minutes
  python -m tfjointrd recipes              the trainings that have a name, and how far they are
  python -m tfjointrd run RECIPE           one of them, or what is left of it; several make a queue
  python -m tfjointrd train --help         train a network of your own choice
  python -m tfjointrd prune --help         make a trained network narrower, at a budget
  python -m tfjointrd export --help        write a .tflite file and check it against its network
  python -m tfjointrd page --help          write a page that runs .tflite files in the browser
  python -m tfjointrd report --help        parameters, multiply-accumulates and memory, layer by layer
  python -m tfjointrd tables               the papers' tables, with their figures and ours
  python -m tfjointrd benchmark --help     how long .tflite files, or the layers of a network, take on this machine
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
    for add in (
        _add_demo,
        _add_recipes,
        _add_run,
        _add_train,
        _add_prune,
        _add_export,
        _add_page,
        _add_report,
        _add_tables,
        _add_benchmark,
    ):
        add(commands)
    for command in commands.choices.values():
        training_options.add_quiet(command)
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
    parser.add_argument("--tensorboard", metavar="DIR", help="write the metrics of each epoch there, for TensorBoard")
    parser.set_defaults(command=_demo)


def _demo(options) -> None:
    from tfjointrd.experiments.demo import demo

    arguments = {"verbose": not options.quiet, "tensorboard": options.tensorboard}
    demo(options.out, epochs=options.epochs, seed=options.seed, **arguments)


def _add_recipes(commands) -> None:
    parser = commands.add_parser(
        "recipes",
        help="the trainings that have a name",
        formatter_class=_Help,
        description=(
            "Lists the recipes, and beside each how far it is in a folder. More than 60 are grouped.\n\n"
            "examples:\n"
            "  python -m tfjointrd recipes\n"
            '  python -m tfjointrd recipes "*_resnet20_cifar10"\n'
            "  python -m tfjointrd recipes --all"
        ),
    )
    parser.add_argument("pattern", nargs="?", default="*", help="only those that match, e.g. '*_cifar10'")
    parser.add_argument("--all", action="store_true", help="list each of them, however many")
    parser.add_argument("--out", default="runs", help="folder of the trainings")
    parser.set_defaults(command=_recipes)


def _recipes(options) -> None:
    from tfjointrd.experiments import recipe_list

    print(recipe_list.text(options.pattern, options.out, options.all, options.quiet))


def _add_run(commands) -> None:
    parser = commands.add_parser(
        "run",
        help="train by recipes that have a name",
        formatter_class=_Help,
        description=(
            "Trains by a recipe, its teacher first if it has one, and leaves card and networks in a folder of the "
            "recipe's name.\nThe same command goes on after any interruption, to the very same result, and returns at "
            "once when all is finished.\nSeveral recipes, or a list of them, are a queue: one after the other, all "
            "with the first seed, then all with the second.\n--status says how far they are.\n\n"
            "scales:\n"
            "  smoke    seconds, to see that it runs\n"
            "  laptop   minutes on digits, an hour or so on CIFAR-10 with two cores\n"
            "  study    to convergence: CIFAR-10 at 16 pixels, an hour or less, settings chosen on held-out images\n"
            "  paper    the papers' own settings\n\n"
            "lists:\n"
            "  study    all trainings of the tables at scale study, the most informative first, with their seeds\n\n"
            "examples:\n"
            "  python -m tfjointrd run an_resnet20_a2_cifar10 --scale laptop --seeds 0 1 2 --out runs\n"
            "  python -m tfjointrd run study --out study\n"
            "  python -m tfjointrd run study --out study --status"
        ),
    )
    parser.add_argument(
        "recipe", nargs="+", help="names; `python -m tfjointrd recipes` lists them; or the name of a list"
    )
    parser.add_argument("--scale", choices=SCALES, help="how large (default: laptop; of a list: its own)")
    parser.add_argument("--out", default="runs", help="folder of all trainings")
    parser.add_argument("--seeds", type=int, nargs="+", help="one training each (default: 0; of a list: its own)")
    parser.add_argument("--data-file", help=".npz file to read the recipe's data set from, without TensorFlow")
    parser.add_argument("--status", action="store_true", help="train nothing; say how far the trainings are")
    training_options.add_common(parser)
    parser.set_defaults(command=_run)


def _run(options) -> None:
    from tfjointrd.experiments import queue, run_named, study

    names = options.recipe
    trainings = queue.expand(names, options.scale, options.seeds, options.data_file)
    if options.status:
        print(queue.status(trainings, options.out))
        if "study" in names:
            print("\nWhat the papers claim:")
            for claim in study.CLAIMS:
                print(f"- {claim.statement} {study.verdict(claim, options.out, trainings[0].scale)}")
        return
    if len(names) > 1 or names[0] in queue.LISTS:
        if options.distribute == "processes":
            raise ValueError("Expected one recipe with `--distribute processes`, since a queue runs in one process.")
        queue.run_queue(trainings, options.out, _options_of_each(options), options.quiet)
        return
    finished = run_named(
        names[0],
        trainings[0].scale,
        options.out,
        options.seeds or (0,),
        verbose=training_options.progress(options),
        data_file=options.data_file,
        note=options.note,
        minutes=options.minutes,
        deterministic=not options.nondeterministic,
        group=training_options.group(options),
        tensorboard=options.tensorboard,
    )
    _print_accuracies(finished)


def _options_of_each(options) -> list[str]:
    """The options of a queue that are those of each of its trainings."""
    given = {"--data-file": options.data_file, "--note": options.note, "--distribute": options.distribute}
    given["--tensorboard"] = options.tensorboard
    named = [part for name, value in given.items() if value for part in (name, value)]
    return [*named, *(["--nondeterministic"] if options.nondeterministic else []), "--minutes", str(options.minutes)]


def _print_accuracies(finished) -> None:
    seeds = len(finished.card["seeds"])
    of_seeds = f" (mean of {seeds} seeds)" if seeds > 1 else ""
    for name, entry in finished.card["networks"].items():
        accuracy = f"{finished.accuracy(name):.4f}{of_seeds}"
        print(f"{finished.path(name)}: accuracy {accuracy}, {entry['parameters']:,} parameters")


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train one network",
        formatter_class=_Help,
        description=training_options.DESCRIPTION,
    )
    training_options.add_training(parser)
    training_options.add_common(parser)
    parser.set_defaults(command=_train)


def _train(options) -> None:
    from tfjointrd.experiments import Recipe, run
    from tfjointrd.experiments.fine_tuning import begin_with
    from tfjointrd.experiments.recipes import Trained, class_of

    chosen = training_options.chosen(options)
    how = training_options.how(options)
    if issubclass(class_of(chosen["method"]), Trained):
        defaults = {"network": "resnet20", "data": "digits", **chosen}
        method, network, images = (defaults.pop(name) for name in ("method", "network", "data"))
        finished = begin_with(method, network, images, options.out, **defaults, **how)
    else:
        finished = run(Recipe(**chosen), options.out, **how)
    _print_accuracies(finished)


def _add_prune(commands) -> None:
    add_prune(commands, _Help)


def _add_export(commands) -> None:
    add_export(commands, _Help)


def _add_page(commands) -> None:
    add_page(commands, _Help)


def _add_tables(commands) -> None:
    add_tables(commands, _Help)


def _add_report(commands) -> None:
    parser = commands.add_parser(
        "report",
        help="what a network costs, layer by layer",
        formatter_class=_Help,
        description=(
            "Prints parameters, multiply-accumulates, output and live memory of each layer of a network.\n"
            "Given folders of finished trainings instead, prints one table of what their cards say, and times their "
            ".tflite files\non this machine. Given .tflite files, prints their operators and number formats; with "
            "--against, how far each\nlayer is from that of the network.\n\n"
            "examples:\n"
            "  python -m tfjointrd report resnet20\n"
            "  python -m tfjointrd report runs/resnet20 runs/jointrd20\n"
            "  python -m tfjointrd report model_int8.tflite --against model.keras --data cifar10"
        ),
    )
    parser.add_argument(
        "network",
        nargs="+",
        help="a .keras or .tflite file, a network of tfjointrd.models or keras.applications, or a folder",
    )
    parser.add_argument("--against", metavar="NETWORK", help="the .keras file that .tflite files were made from")
    parser.add_argument("--figure", metavar="PNG", help="with --against: also draw the errors of one file's layers")
    _add_form(parser)
    parser.set_defaults(command=_report)


def _report(options) -> None:
    from tfjointrd import data, report
    from tfjointrd.experiments.networks import build_network
    from tfjointrd.experiments.run_folder import finished_run
    from tfjointrd.experiments.table import markdown, measure_run

    files = [name for name in options.network if name.endswith(".tflite")]
    if files == options.network:
        report_files(options)
        return
    if options.against or options.figure:
        raise ValueError(f"Expected .tflite files with `--against` and `--figure`. Received: {options.network}.")
    folders = [name for name in options.network if Path(name).is_dir()]
    if not folders and not files:
        for name in options.network:
            report.summary(build_network(name, data.info(options.data, image_size=options.image_size)))
        return
    if folders != options.network:
        raise ValueError(
            f"Expected either networks, .tflite files or folders of finished trainings. Received: {options.network}."
        )
    print(markdown([row for folder in folders for row in measure_run(finished_run(folder))]))


def _add_benchmark(commands) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="how long .tflite files, or the layers of a network, take on this machine",
        formatter_class=_Help,
        description=(
            "Times .tflite files side by side: they take turns, round by round, one image at a time. Printed are the "
            "median and the\n90th percentile of the milliseconds, and how much faster each is than the first one.\n"
            "Given --layers, times the layers of one network at all widths that a search may choose, and writes the "
            "table that\n`train --method search --budget latency_ms` takes.\n\n"
            "examples:\n"
            "  python -m tfjointrd benchmark runs/resnet20/model_float32.tflite runs/plain20/model_float32.tflite\n"
            "  python -m tfjointrd benchmark resnet20 --layers this_machine.json"
        ),
    )
    parser.add_argument("file", nargs="+", help=".tflite files; with --layers, one network as for `report`")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each")
    parser.add_argument("--layers", help="JSON file to write the latencies of a network's layers to")
    parser.add_argument("--alphas", type=float, nargs="+", default=[1, 2, 4], help="candidates of the search (layers)")
    parser.add_argument("--round-to", type=int, default=1, help="multiple that their widths are rounded to (layers)")
    parser.add_argument("--quantization", choices=quantizations(), default="none", help="of the layers' files")
    _add_form(parser)
    parser.set_defaults(command=_benchmark)


def _benchmark(options) -> None:
    from tfjointrd import data, report
    from tfjointrd.experiments.networks import build_network

    if not options.layers:
        found = report.latencies(options.file, options.threads, options.runs)
        first, width = found[0].median_ms, max(map(len, options.file))
        for file, figures in zip(options.file, found, strict=True):
            print(f"{file:{width}}  {figures}, {first / figures.median_ms:.2f} times as fast as the first")
        return
    if len(options.file) > 1:
        raise ValueError(f"Expected one network with `--layers`. Received: {', '.join(options.file)}.")
    network = build_network(options.file[0], data.info(options.data, image_size=options.image_size))
    quantization = None if options.quantization == "none" else options.quantization
    table = report.layer_latencies(
        network,
        options.alphas,
        round_to=options.round_to,
        quantization=quantization,
        threads=options.threads,
        runs=options.runs,
        path=options.layers,
        verbose=not options.quiet,
    )
    least, most = (sum(pick(rows)[-1] for rows in table.values()) for pick in (min, max))
    print(f"{options.layers}: {len(table)} layers, {least:.3f} ms at their narrowest to {most:.3f} ms at their widest")


def _add_form(parser) -> None:
    """What a network that has only a name is built for."""
    parser.add_argument("--data", default="cifar10", help="whose image size and classes to build a named network for")
    parser.add_argument("--image-size", type=int, help="side of photographs in pixels (default: 224)")


def command() -> int:
    """Runs the command line of this process, with TensorFlow's settings for it."""
    silence_tensorflow()
    return main()


if __name__ == "__main__":
    sys.exit(command())
