"""The command `python -m tfjointrd prune`."""

from __future__ import annotations

import functools
from pathlib import Path

from tfjointrd import command_line_options as training_options
from tfjointrd.experiments.recipes import METHODS, Pruned, class_of

_METHODS = [name for name, cls in METHODS.items() if issubclass(cls, Pruned)]
# What the networks of such a training are called in the table.
_TITLES = {"unpruned": "unpruned", "pruned": "pruned", "model": "pruned and fine-tuned"}


def add_prune(commands, formatter_class) -> None:
    """The command `prune`."""
    parser = commands.add_parser(
        "prune",
        help="make a trained network narrower, at a budget",
        formatter_class=formatter_class,
        description=(
            "Drops the least important channels of a trained network until it keeps to a budget, trains it on, exports "
            "both, and prints\na table of them: accuracy, parameters, multiply-accumulates, live memory, bytes and "
            "one-thread milliseconds of each file.\nThe folder gets the networks, their .tflite files, card.json, and "
            "architecture.json, which says what was kept.\nAfter an interruption the same command goes on, to the very "
            "same result.\n--epochs 0 prunes only; without --data by the weights alone, and then there are neither "
            "accuracies nor a card.\nEpochs and learning rate were not tuned.\n\n"
            "methods:\n"
            + "".join(f"  {name:{max(map(len, _METHODS))}}  {METHODS[name].summary}\n" for name in _METHODS)
            + "\nexamples:\n"
            "  python -m tfjointrd prune model.keras --target-macs 0.5 --data flowers/ --epochs 10 --out small\n"
            "  python -m tfjointrd prune model.keras --target-macs 0.5 --data cifar10 --importance taylor \\\n"
            "      --method pruned_distilled --kd-weight 0.9 --out small\n"
            "  python -m tfjointrd prune model.keras --ratio 0.3 --scope layer --epochs 0 --out small"
        ),
    )
    parser.add_argument("network", help="a .keras file, or the name of a recipe that is finished in --runs")
    parser.add_argument("--out", required=True, help="folder for checkpoint, networks, files and card")
    parser.add_argument("--runs", default="runs", help="folder of the recipes' folders, for a name")
    parser.add_argument("--method", default="pruned", choices=_METHODS, help="how to train on; see above")
    training_options.add_fields(parser, _METHODS, without=("network",))
    training_options.add_common(parser)
    parser.set_defaults(command=_prune)


def _prune(options) -> None:
    from tfjointrd.experiments.card import CARD
    from tfjointrd.experiments.fine_tuning import prune_and_train
    from tfjointrd.experiments.prune_only import prune_only
    from tfjointrd.experiments.run_folder import LOCK, RECIPE
    from tfjointrd.experiments.table import markdown, measure

    chosen = training_options.chosen(options)
    network, data, out = chosen.pop("network"), chosen.pop("data", None), Path(options.out)
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found - {LOCK} and not found & {RECIPE, CARD}:
        raise ValueError(
            "Expected `--out` to be a new or empty folder, or that of the same command. Received: "
            f"out='{out}', which holds {', '.join(sorted(found)[:3])}{' ...' if len(found) > 3 else ''}."
        )
    if data is not None:
        how = training_options.how(options)
        finished = prune_and_train(network, data, out, runs=options.runs, **chosen, **how)
        titles = _TITLES if finished.recipe.epochs else {**_TITLES, "model": "pruned"}
        print(markdown([measure(titles[name], finished, name) for name in finished.networks]))
        return
    if chosen.get("epochs", class_of(options.method).__dataclass_fields__["epochs"].default):
        raise ValueError(
            "Expected `--data`, the images to train on and to measure accuracy with, or `--epochs 0` to prune only. "
            "Received: neither."
        )
    if chosen.pop("method") != "pruned":
        raise ValueError(f"Expected `--data` for method '{options.method}', which trains. Received: none.")
    trained = {
        "--note": options.note,
        "--tensorboard": options.tensorboard,
        "--distribute": options.distribute,
        "--nondeterministic": options.nondeterministic,
    }
    if any(trained.values()):
        wrong = ", ".join(name for name, value in trained.items() if value)
        raise ValueError(f"Expected `--data` with {wrong}, since without it nothing is trained. Received: none.")
    say = (lambda text: None) if options.quiet else functools.partial(print, flush=True)
    print(markdown(prune_only(network, out, runs=options.runs, say=say, **chosen)))
