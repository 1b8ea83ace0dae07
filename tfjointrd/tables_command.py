"""The command `python -m tfjointrd tables`."""

from __future__ import annotations

import argparse


def add_tables(commands, formatter_class) -> None:
    """The command `tables`."""
    parser = commands.add_parser(
        "tables",
        help="the papers' tables, with their figures and ours",
        formatter_class=formatter_class,
        description=(
            "Prints the tables of both papers in Markdown: the paper's figure, what the cards of finished trainings "
            "say, the difference,\nand the setting. A row without a card reads `not run`; its recipe says how to run "
            "it.\n\n"
            "examples:\n"
            "  python -m tfjointrd tables\n"
            "  python -m tfjointrd tables --table an_table3 --cards runs saved_models\n"
            "  python -m tfjointrd tables --zoo > saved_models/README.md"
        ),
    )
    parser.add_argument("--table", help="one of them, e.g. an_table3 (default: all)")
    parser.add_argument("--cards", nargs="+", default=["saved_models"], help="folders with cards, at any depth")
    parser.add_argument("--zoo", action="store_true", help="instead, the list of all trained networks in a folder")
    parser.set_defaults(command=_tables)


def _tables(options: argparse.Namespace) -> None:
    from tfjointrd.experiments import paper_tables, zoo

    if options.zoo:
        if options.table or len(options.cards) > 1:
            raise ValueError("Expected `--zoo` with one folder of `--cards`, and without `--table`.")
        print(zoo.text(options.cards[0]), end="")
        return
    names = [options.table] if options.table else list(paper_tables.TABLES)
    print("\n\n".join(str(paper_tables.paper_table(name, options.cards)) for name in names))
