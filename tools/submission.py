"""Build COCO result files from saved predictions, and check them.

Example: python tools/submission.py build --task panoptic --predictions output/predictions \\
    --split val2017 --alg ocr --image-info panoptic_val2017.json --output output/submission
"""

import argparse
import json
import sys
from pathlib import Path

from ocr_panoptic.errors import ArgumentParser, command_line
from ocr_panoptic.evaluation.submission.build import build_submission
from ocr_panoptic.evaluation.submission.check import check_submission
from ocr_panoptic.evaluation.submission.report import Built, Report
from ocr_panoptic.evaluation.submission.target import SPLITS, TASKS
from ocr_panoptic.files import require_output_file, write_text


def build(args: argparse.Namespace) -> Built:
    """Build the zip of one task from saved predictions."""
    return build_submission(
        args.task,
        args.source,
        args.split,
        args.alg,
        args.image_info,
        args.output,
        categories=args.categories,
        rounded=args.round,
        min_score=args.min_score,
        overwrite=args.overwrite,
    )


def check(args: argparse.Namespace) -> Report:
    """Check a zip of any origin; every problem is a line."""
    return check_submission(
        args.source, args.image_info, task=args.task, categories=args.categories
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments, with ``run``, the function of the command."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, parser_class=ArgumentParser)
    command = commands.add_parser("build", help=build.__doc__, description=build.__doc__)
    command.add_argument("--task", required=True, choices=TASKS)
    sources = "DIR of predict.py or of an evaluation, or a json"
    command.add_argument(
        "--predictions", dest="source", required=True, metavar="DIR", type=Path, help=sources
    )
    command.add_argument("--split", required=True, choices=SPLITS)
    command.add_argument("--alg", required=True, metavar="NAME", help="for the name of the file")
    command.add_argument("--output", required=True, metavar="DIR")
    rounding = "scores to 5 digits, boxes to 0.1 pixels: AP differs in its last digits"
    command.add_argument("--round", action="store_true", help=rounding)
    command.add_argument("--min-score", type=float, default=0.0, help="of the detections kept")
    command.add_argument("--overwrite", action="store_true", help="replace a zip that exists")
    command.set_defaults(run=build)
    command = commands.add_parser("check", help=check.__doc__, description=check.__doc__)
    command.add_argument("source", type=Path, metavar="ZIP")
    command.add_argument("--task", choices=TASKS, help="told from the zip if not given")
    command.set_defaults(run=check)
    for command in commands.choices.values():
        listed = "COCO json with the images, such as image_info_test-dev2017.json"
        command.add_argument("--image-info", required=True, metavar="J", type=Path, help=listed)
        known = "panoptic json with the categories, if --image-info lacks them and is not COCO's"
        command.add_argument("--categories", metavar="J", type=Path, help=known)
        command.add_argument("--json", type=Path, metavar="FILE", help="write what is printed")
    return parser.parse_args(argv)


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    args = parse_arguments(argv)
    if args.json is not None:
        require_output_file(args.json, "--json", args.source, args.image_info, args.categories)
    result = args.run(args)
    print("\n".join(result.lines()))
    if args.json is not None:
        write_text(args.json, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    result.raise_for_problems()


if __name__ == "__main__":
    sys.exit(main())
