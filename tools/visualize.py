"""Draw saved panoptic results or ground truth, or what a model does with images.

Saved results, without a model, and beside them the ground truth if it is given:
    python tools/visualize.py --panoptic-json J --panoptic-root P --image-root R --output DIR
What pixels look at in a model's context blocks (relations --help says more):
    python tools/visualize.py relations --config-file F --input IMAGE --pixel X,Y --output DIR
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from ocr_panoptic.engine.draw import draw_relations, parse_pixel
from ocr_panoptic.engine.setup import TRUST_CHECKPOINT
from ocr_panoptic.errors import BAD_INPUT, ArgumentParser, InputError, command_line
from ocr_panoptic.visualization.saved import SavedFiles, Style, draw_saved


def relations(args: argparse.Namespace) -> Iterator[Path]:
    """Draw what the context blocks of a model look at from pixels: a picture for each."""
    pixels = [parse_pixel(text) for text in args.pixel]
    opts = [*args.trust_checkpoint, *args.opts]
    return draw_relations(args.config_file, opts, args.input, pixels, args.output)


def saved(args: argparse.Namespace) -> Iterator[Path | InputError]:
    """Draw saved results: a picture for each image, or what is wrong with it."""
    required = ("panoptic_json", "panoptic_root", "image_root", "output")
    missing = [f"--{name.replace('_', '-')}" for name in required if getattr(args, name) is None]
    if missing:
        raise InputError(f"required: {', '.join(missing)} (or the command relations)")
    files = SavedFiles(*(getattr(args, field.name) for field in fields(SavedFiles)))
    style = Style(args.alpha, args.text, args.gallery)
    return draw_saved(files, args.output, style, limit=args.limit, num_processes=args.num_procs)


def add_relations(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``relations``, --opts last: it takes the rest of the line."""
    add = parser.add_argument
    add("--pixel", nargs="+", required=True, metavar="X,Y", help="from 0,0 at the top left")
    add("--config-file", required=True, metavar="FILE")
    add("--input", nargs="+", required=True, type=Path, metavar="IMAGE")
    add("--output", required=True, metavar="DIR")
    add("--trust-checkpoint", **TRUST_CHECKPOINT)
    text = "overrides of the config, last on the line, such as MODEL.WEIGHTS model_final.pth"
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help=text)
    parser.set_defaults(run=relations)


def add_saved(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of drawing saved results."""
    add = parser.add_argument
    add("--panoptic-json", type=Path, metavar="J", help="COCO panoptic json, results or truth")
    add("--panoptic-root", type=Path, metavar="P", help="folder of its PNGs")
    add("--image-root", type=Path, metavar="R", help="folder of the images")
    add("--output", metavar="DIR", help="folder for the pictures")
    add("--ground-truth-json", type=Path, metavar="G", help="drawn beside J; PQ is shown")
    add("--ground-truth-root", type=Path, metavar="GR", help="folder of its PNGs")
    add("--categories", type=Path, metavar="JSON", help="of the classes; default: J, then G")
    add("--no-text", dest="text", action="store_false", help="no names on the segments")
    add("--alpha", type=float, default=0.6, metavar="A", help="of the colours, 0 to 1 (0.6)")
    add("--limit", type=int, metavar="N", help="only the first N annotations")
    add("--num-procs", type=int, metavar="N", help="default: one per CPU, at most 16")
    add("--gallery", action="store_true", help="write DIR/index.html, a page of all pictures")
    parser.set_defaults(run=saved)


@command_line
def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv``, the process's own where it is None."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=__doc__, formatter_class=raw)
    add_saved(parser)
    commands = parser.add_subparsers(dest="command", parser_class=ArgumentParser)
    text = "what pixels look at"
    add_relations(commands.add_parser("relations", help=text, description=relations.__doc__))
    argv = sys.argv[1:] if argv is None else argv
    # Behind a space argparse takes "-1,5" for a value; for an option otherwise.
    args = parser.parse_args([re.sub(r"^(?=-\d+,)", " ", word) for word in argv])
    if args.command and argv[0] != args.command:
        raise InputError(f"{argv[0]}: before {args.command}, expected {args.command} first")
    status = 0
    for result in args.run(args):
        failed = isinstance(result, InputError)
        stream = sys.stderr if failed else sys.stdout
        # Above the bar of the progress, where there is one.
        with tqdm.external_write_mode(stream):
            print(f"error: {result}" if failed else result, file=stream, flush=True)
        if failed:
            status = BAD_INPUT
    return status


if __name__ == "__main__":
    sys.exit(main())
