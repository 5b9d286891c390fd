"""Check COCO panoptic data before training: every problem of the json, the images and the PNGs.

Example: python tools/check_dataset.py --panoptic-json annotations/panoptic_train.json \\
    --panoptic-root panoptic_train --image-root train
"""

import argparse
import json
import sys
from pathlib import Path

from ocr_panoptic.data.dataset_check import check_panoptic_dataset
from ocr_panoptic.data.dataset_report import format_report
from ocr_panoptic.errors import ArgumentParser, InputError, command_line
from ocr_panoptic.files import require_output_file, write_text

_EPILOG = """\
Exit status: 0 nothing is wrong (notes do not count), 2 something is, or the json cannot be read;
a line on stderr says which.
"""


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--panoptic-json", required=True, type=Path, metavar="J", help="COCO panoptic json")
    add("--panoptic-root", required=True, type=Path, metavar="P", help="folder of its PNGs")
    add("--image-root", required=True, type=Path, metavar="R", help="folder of its images")
    add("--sem-seg-root", type=Path, metavar="S", help="folder of the semantic PNGs, if any")
    add("--deep", action="store_true", help="decode the images; without it, headers are read")
    add("--num-procs", type=int, metavar="N", help="default: one per CPU, at most 16")
    add("--json", type=Path, metavar="FILE", help="write all problems here too")
    add("--all", action="store_true", help="print all problems, not the first 10 of each kind")
    args = parser.parse_args(argv)
    if args.num_procs is not None and args.num_procs < 1:
        raise InputError(f"--num-procs {args.num_procs}: expected 1 or more")
    if args.json:
        require_output_file(args.json, "--json", args.panoptic_json)
    report = check_panoptic_dataset(
        args.panoptic_json,
        args.panoptic_root,
        args.image_root,
        sem_seg_root=args.sem_seg_root,
        deep=args.deep,
        num_processes=args.num_procs,
    )
    if args.json:
        write_text(args.json, json.dumps(report.to_json(), indent=1) + "\n")
    print(format_report(report, None if args.all else 10), flush=True)
    if report.problems:
        many = "s" if len(report.problems) > 1 else ""
        found = f"{len(report.problems)} problem{many}, as printed"
        raise InputError(f"{args.panoptic_json}: {found}; expected none")


if __name__ == "__main__":
    sys.exit(main())
