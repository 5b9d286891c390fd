"""Measure what things cost: context schemes, whole models, panoptic merge and evaluation.

Examples: python tools/benchmark.py context --names ocr isa ppm --size 512,128,128
    python tools/benchmark.py context --names ocr isa --sizes 512,32,32 512,64,64 --plot costs.svg
    python tools/benchmark.py model --config-file F --size 480,640 --against stock
    python tools/benchmark.py merging --instances 100
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from ocr_panoptic.benchmark.context_report import report_context
from ocr_panoptic.benchmark.evaluation import report_evaluation
from ocr_panoptic.benchmark.measure import DTYPES, MODES
from ocr_panoptic.benchmark.merging import report_merging
from ocr_panoptic.benchmark.model_report import report_model
from ocr_panoptic.engine.inference import DTYPES as MODEL_DTYPES
from ocr_panoptic.errors import ArgumentParser, command_line
from ocr_panoptic.files import require_output_file, write_text

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def several(given: object) -> dict:
    """Return what argparse takes several of, with a default."""
    return {"nargs": "+", "default": [given]}


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add a command for each thing that can be measured."""
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)

    command = commands.add_parser("context", help="context schemes, side by side")
    command.add_argument("--names", nargs="+", metavar="NAME", help="default: every scheme")
    command.add_argument(
        *("--size", "--sizes"), dest="sizes", **several("512,128,128"), metavar="C,H,W"
    )
    command.add_argument("--device", dest="devices", **several(DEVICE), metavar="D")
    command.add_argument("--dtype", dest="dtypes", **several("float32"), choices=DTYPES)
    command.add_argument("--mode", dest="modes", **several("forward"), choices=MODES)
    command.add_argument("--batch", type=int, metavar="N", help="default: 1, and 2 in training")
    command.add_argument("--num-regions", type=int, metavar="K", help="classes of the regions")
    command.add_argument("--plot", type=Path, metavar="FILE", help=".png or .svg: cost by size")
    command.set_defaults(report=report_context)

    command = commands.add_parser("model", help="a whole config, and its parts, without data")
    command.add_argument("--config-file", required=True, metavar="FILE")
    command.add_argument("--size", default="480,640", metavar="H,W", help="of the images")
    command.add_argument("--batch", type=int, default=1, metavar="N", help="images of a call")
    command.add_argument("--device", default=DEVICE)
    command.add_argument("--dtype", default="auto", choices=MODEL_DTYPES)
    command.add_argument("--mode", default="forward", choices=MODES)
    command.add_argument("--instances", type=int, metavar="N", help="of each image, default: 10")
    command.add_argument("--against", choices=["stock"], help="Detectron2's own, in turns")
    command.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE")
    command.set_defaults(report=report_model)

    command = commands.add_parser("merging", help="the panoptic merge, beside Detectron2's")
    command.add_argument("--instances", type=int, default=100, metavar="N")
    command.add_argument("--device", default=DEVICE)
    command.set_defaults(report=report_merging)

    command = commands.add_parser("evaluation", help="panoptic quality, beside Detectron2's way")
    command.add_argument("--images", type=int, default=300, metavar="N")
    command.add_argument("--size", type=int, default=512, metavar="S", help="of an image's sides")
    command.set_defaults(report=report_evaluation)

    for name, command in commands.choices.items():
        if name != "evaluation":
            command.add_argument("--runs", type=int, default=9, metavar="N", help="timed calls")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_commands(parser)
    given = vars(parser.parse_args(argv))
    path, report = given.pop("json"), given.pop("report")
    del given["command"]
    if path:  # before measuring, which takes long
        require_output_file(path, "--json", given.get("config_file"))
    text, numbers = report(**given)
    print(text)
    if path:
        write_text(path, json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
