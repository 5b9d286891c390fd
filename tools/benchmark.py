"""Measure context schemes (parameters, FLOPs, memory, time), panoptic merge and evaluation.

Examples: python tools/benchmark.py context --names ocr ocr_textbook --size 512,128,128
    python tools/benchmark.py merging --instances 100
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from ocr_panoptic.benchmark.context import format_table, measure_schemes
from ocr_panoptic.benchmark.evaluation import report_evaluation
from ocr_panoptic.benchmark.merging import format_merging, measure_merging
from ocr_panoptic.benchmark.schemes import SCHEMES
from ocr_panoptic.errors import ArgumentParser, InputError, command_line
from ocr_panoptic.files import require_folder, write_text

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_size(text: str) -> tuple[int, int, int]:
    """Read "C,H,W"."""
    try:
        channels, height, width = map(int, text.split(","))
    except ValueError as error:
        raise InputError(f"--size {text}: expected C,H,W such as 512,128,128") from error
    if min(channels, height, width) < 1:
        raise InputError(f"--size {text}: expected numbers of 1 or more")
    return channels, height, width


def context(args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure context schemes, side by side."""
    try:
        rows = measure_schemes(
            args.names,
            parse_size(args.size),
            device=args.device,
            dtype=DTYPES[args.dtype],
            num_regions=args.num_regions,
            runs=args.runs,
        )
    except RuntimeError as error:
        # torch has no class of its own for memory that the CPU does not have.
        if "allocate" not in str(error):
            raise
        raise InputError(
            f"--size {args.size}: {args.device} has not enough memory, expected a smaller size"
        ) from error
    return format_table(rows), [asdict(row) for row in rows]


def merging(args: argparse.Namespace) -> tuple[str, dict]:
    """Measure the merge of instances and semantic labels, and Detectron2's."""
    cost = measure_merging(args.instances, device=args.device, runs=args.runs)
    return format_merging(cost), asdict(cost)


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)
    command = commands.add_parser("context", help="context schemes, side by side")
    command.add_argument("--names", nargs="+", default=list(SCHEMES), metavar="NAME")
    command.add_argument("--size", default="512,128,128", metavar="C,H,W", help="of the input")
    command.add_argument("--num-regions", type=int, metavar="K", help="classes of the regions")
    command.add_argument("--dtype", default="float32", choices=DTYPES)
    command.set_defaults(measure=context)
    command = commands.add_parser("merging", help="the panoptic merge, beside Detectron2's")
    command.add_argument("--instances", type=int, default=100, metavar="N")
    command.set_defaults(measure=merging)
    command = commands.add_parser("evaluation", help="panoptic quality, beside Detectron2's way")
    command.add_argument("--images", type=int, default=300, metavar="N")
    command.add_argument("--size", type=int, default=512, metavar="S", help="of an image's sides")
    command.set_defaults(measure=lambda args: report_evaluation(args.images, args.size))
    for name, command in commands.choices.items():
        if name != "evaluation":
            command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
            command.add_argument("--runs", type=int, default=9, metavar="N", help="timed calls")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    args = parser.parse_args(argv)
    if args.json:  # before measuring, which takes long
        require_folder(args.json.parent, "--json")
        if args.json.is_dir():
            raise InputError(f"--json {args.json}: is a folder, expected a file")
    text, numbers = args.measure(args)
    print(text)
    if args.json:
        write_text(args.json, json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
