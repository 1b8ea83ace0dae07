"""The commands of `python -m tfjointrd` that write and look at `.tflite` files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tfjointrd.export import quantize
from tfjointrd.pixel_ranges import PIXEL_RANGES


def add_export(commands, formatter_class) -> None:
    """The command `export`."""
    formats = "".join(
        f"  {name:8}  {found.description}\n" for name, found in quantize.defaults().items() if found.argument
    )
    parser = commands.add_parser(
        "export",
        help="write a .tflite file and check it",
        formatter_class=formatter_class,
        description=(
            "Converts a .keras network to a .tflite file of builtin operators, runs it in the LiteRT interpreter and "
            "compares it with\nthe network. A file that disagrees is not kept. Static formats need images to calibrate "
            "on: the training images of --data.\nA float32 .tflite file in place of the network is quantized without "
            "TensorFlow.\n\n"
            f"number formats:\n{formats}\n"
            "examples:\n"
            "  python -m tfjointrd export model.keras --quantization int8 --data cifar10 --max-accuracy-drop 1\n"
            "  python -m tfjointrd export model.keras --quantization int8 --layers 'stem_*=float32' --data cifar10\n"
            "  python -m tfjointrd export model_float32.tflite --quantization int4"
        ),
    )
    parser.add_argument("network", help="a .keras file, or a .tflite file in float32")
    parser.add_argument("--out", help="the .tflite file; beside the network by default")
    parser.add_argument("--quantization", choices=quantizations(), default="none", help="none keeps float32")
    parser.add_argument(
        "--layers",
        nargs="+",
        default=[],
        metavar="PATTERN=FORMAT",
        help="other formats for some layers, float32 among them; the last pattern that matches counts",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE_OR_NAMES",
        help="write metadata with the names of the classes into the file, and a card beside it: a file with one name a "
        "line, names with commas between them, or a data set; of several outputs, OUTPUT=FILE_OR_NAMES",
    )
    parser.add_argument(
        "--pixel-range",
        choices=list(PIXEL_RANGES),
        help="with --labels: what the network takes for pixels from 0 to 255, where the file does not show it; "
        "give --pixel-range=-1..1 with an equals sign",
    )
    parser.add_argument("--converter", choices=["tensorflow", "litert"], help="by default the better one of the format")
    parser.add_argument("--data", help="data set to calibrate on, and to measure accuracy with")
    parser.add_argument(
        "--max-accuracy-drop", type=float, metavar="POINTS", help="refuse a file that loses more on --data"
    )
    parser.set_defaults(command=_export)


def _export(options) -> None:
    from tfjointrd import data, export
    from tfjointrd.experiments.fine_tuning import image_size_for

    quantization, suffix = _quantization(options)
    path = options.out or str(Path(options.network).with_suffix("")) + f"{suffix}.tflite"
    if options.max_accuracy_drop is not None and not options.data:
        raise ValueError(
            "Expected `--data` with `--max-accuracy-drop`, images to measure accuracy with. Received: none."
        )
    if options.pixel_range and not options.labels:
        raise ValueError("Expected `--labels` with `--pixel-range`, which both go into the metadata. Received: none.")
    if options.network.endswith(".tflite"):
        _export_file(options, path, quantization)
        return
    network = load(options.network)
    train = validation = None
    if options.data:
        size = image_size_for(network, options.data)
        train, validation = data.load(options.data, augment=False, image_size=size)
    limits = {} if options.max_accuracy_drop is None else {"validation": validation}
    print(
        export.tflite(
            network,
            path,
            quantization=quantization,
            representative_data=train,
            converter=options.converter,
            max_accuracy_drop=options.max_accuracy_drop,
            **limits,
        )
    )
    _describe(options, path)
    if validation is not None:
        print(f"accuracy of the file on {options.data}: {export.accuracy(path, validation):.4f}")


def _describe(options, path: str) -> None:
    """Writes metadata into the file, where the names of its classes are given."""
    from tfjointrd import export

    if options.labels:
        output, given, names = options.labels.partition("=")
        labels = {output: names} if given and not os.path.exists(options.labels) else options.labels
        print(export.describe_file(path, labels, pixel_range=options.pixel_range))


def _export_file(options, path: str, quantization) -> None:
    """Writes a float32 file in another number format."""
    from tfjointrd import data, export

    if options.converter == "tensorflow" or options.max_accuracy_drop is not None or quantization is None:
        raise ValueError(
            "Expected `--quantization`, and neither `--converter tensorflow` nor `--max-accuracy-drop`, with a .tflite "
            f"file; both need the .keras network. Received: network='{options.network}'."
        )
    train = validation = None
    if options.data:
        size = export.TFLiteModel(options.network).input_shape[1]
        train, validation = data.load(options.data, augment=False, image_size=size)
    print(export.quantize_file(options.network, path, quantization, train))
    _describe(options, path)
    if validation is not None:
        print(f"accuracy of the file on {options.data}: {export.accuracy(path, validation):.4f}")


def _quantization(options) -> tuple:
    """What `export.tflite` takes for the options, and what is added to the file's name."""
    named = None if options.quantization == "none" else options.quantization
    if not options.layers:
        return named, "" if named is None else f"_{named}"
    pairs = [text.rpartition("=") for text in options.layers]
    if not all(pattern and name for pattern, _, name in pairs):
        raise ValueError(
            f"Expected `--layers` as PATTERN=FORMAT, e.g. 'stem_*=float32'. Received: {' '.join(options.layers)}."
        )
    return {"*": named, **{pattern: name for pattern, _, name in pairs}}, "_mixed"


def add_page(commands, formatter_class) -> None:
    """The command `page`."""
    parser = commands.add_parser(
        "page",
        help="write a page that classifies pictures in the browser",
        formatter_class=formatter_class,
        description=(
            "Writes a static page that runs one .tflite file, or two side by side, in the browser: on pictures that "
            "are chosen,\ntaken by the camera or drawn. Pictures stay in the browser. The runtime, LiteRT.js, is "
            "downloaded from the npm\nregistry once and kept in the user's cache folder. Any web server can hand the "
            "page out; browsers do not run it\nfrom a folder.\n\n"
            "examples:\n"
            "  python -m tfjointrd page model_float32.tflite model_int8.tflite --out page --labels cifar10 --serve\n"
            "  python -m tfjointrd page mobilenet.tflite --out page --labels names.txt --pixel-range=-1..1 --cdn"
        ),
    )
    parser.add_argument(
        "file", nargs="+", metavar="FILE", help="one or two .tflite files; float32 or uint8 at their ends"
    )
    parser.add_argument("--out", default="page", help="folder to write; an earlier page there is replaced")
    parser.add_argument(
        "--labels",
        metavar="FILE_OR_NAMES",
        help="a file with one class name a line, names with commas between them, or a data set; "
        "by default those of the data set in the card beside the first file",
    )
    parser.add_argument(
        "--pixel-range",
        action="append",
        default=[],
        metavar="RANGE",
        help="what the network takes for pixels from 0 to 255, one of "
        f"{', '.join(PIXEL_RANGES)}; by default the file tells, or else 0..255; twice for two files",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--runtime", metavar="FOLDER_OR_TGZ", help="npm packages of the runtime on this disk")
    source.add_argument("--cdn", action="store_true", help="load the runtime from jsDelivr when the page is opened")
    parser.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=8000,
        metavar="PORT",
        help="hand the page out on this machine until Ctrl-C, on port 8000 or another; 0 takes any",
    )
    parser.set_defaults(command=_page)


def _page(options) -> None:
    from tfjointrd.export import page
    from tfjointrd.export.page.serve import address, server

    running = None if options.serve is None else server(options.out, options.serve)
    try:
        written = page.write_page(
            options.file,
            options.out,
            labels=options.labels,
            pixel_ranges=options.pixel_range,
            runtime=options.runtime,
            cdn=options.cdn,
        )
        print(written)
        if running is not None:
            print(f"{address(running)} until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                running.serve_forever()
            print()
    finally:
        if running is not None:
            running.server_close()


def report_files(options) -> None:
    """What `report` does with .tflite files."""
    from tfjointrd import data, report
    from tfjointrd.export.samples import sample

    if options.figure and not (options.against and len(options.network) == 1):
        raise ValueError("Expected one .tflite file and `--against` with `--figure`. Received: others.")
    network = load(options.against) if options.against else None
    if network is not None:
        from tfjointrd.experiments.fine_tuning import image_size_for

        _, images = data.load(options.data, augment=False, image_size=image_size_for(network, options.data))
        images = sample(images, network)[:32]
    for name in options.network:
        print(report.file_profile(name))
        print(report.file_memory(name))
        if network is not None:
            errors = report.quantization_error(name, network, images)
            print(f"\n{errors}")
            if options.figure:
                errors.figure(options.figure)


def quantizations() -> list[str]:
    """The choices of `--quantization`."""
    return ["none", *filter(None, quantize.arguments().values())]


def load(path: str):
    """The network in a .keras file."""
    from tfjointrd.experiments.networks import load_network

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected `network` to be a .keras file that exists. Received: network='{path}'.")
    return load_network(path)
