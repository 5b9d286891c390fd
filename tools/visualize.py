"""Draw what a model does with images.

Example: python tools/visualize.py relations --config-file configs/... --input image.jpg \\
    --pixel 320,240 --output output/relations --opts MODEL.WEIGHTS model_final.pth
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ocr_panoptic.engine.draw import draw_relations
from ocr_panoptic.errors import ArgumentParser, InputError, command_line


def parse_pixel(text: str) -> tuple[int, int]:
    """Read "X,Y"."""
    try:
        x, y = map(int, text.split(","))
    except ValueError as error:
        raise InputError(f"--pixel {text}: expected X,Y such as 320,240") from error
    return x, y


def relations(args: argparse.Namespace) -> Iterator[Path]:
    """Draw what the context blocks of a model look at from pixels: a picture for each."""
    pixels = [parse_pixel(text) for text in args.pixel]
    return draw_relations(args.config_file, args.opts, args.input, pixels, args.output)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every command has, --opts last: it takes the rest of the line."""
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", nargs="+", required=True, type=Path, metavar="IMAGE")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="overrides of the config, last on the line, such as MODEL.WEIGHTS model_final.pth",
    )


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)
    command = commands.add_parser(
        "relations", help="what pixels look at", description=relations.__doc__
    )
    pixel_help = "of the image file, from 0,0 at its top left"
    command.add_argument("--pixel", nargs="+", required=True, metavar="X,Y", help=pixel_help)
    command.set_defaults(run=relations)
    # Every command has a function of its arguments that yields the files it writes.
    for command in commands.choices.values():
        add_shared_arguments(command)
    args = parser.parse_args(argv)
    for path in args.run(args):
        print(path, flush=True)


if __name__ == "__main__":
    sys.exit(main())
