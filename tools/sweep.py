"""Panoptic quality over the thresholds of the merge, from outputs that predict.py saved.

Example: python tools/sweep.py --config-file configs/... --predictions output/predicted \\
    --panoptic-json J --panoptic-root P --overlap 0.3 0.5 0.7 --score 0.4 0.5 0.6
"""

import argparse
import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ocr_panoptic.engine.prediction import result_metadata
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import ArgumentParser, InputError, command_line
from ocr_panoptic.evaluation.panoptic_truth import GroundTruth
from ocr_panoptic.evaluation.sweep import Thresholds, format_sweep, sweep_merging
from ocr_panoptic.files import require_output_file, write_text


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="as predicted with")
    parser.add_argument(
        "--predictions",
        required=True,
        type=Path,
        metavar="DIR",
        help="of predict.py --save-semantic",
    )
    parser.add_argument("--panoptic-json", required=True, type=Path, metavar="JSON")
    parser.add_argument("--panoptic-root", required=True, type=Path, metavar="DIR")
    for flag, kind, what in (
        ("--overlap", float, "OVERLAP_THRESH, 0 to 1"),
        ("--stuff-area", int, "STUFF_AREA_LIMIT, pixels"),
        ("--score", float, "INSTANCES_CONFIDENCE_THRESH, 0 to 1"),
    ):
        parser.add_argument(
            flag, nargs="+", type=kind, metavar="N", help=f"{what}; default: the config's"
        )
    parser.add_argument("--num-procs", type=int, metavar="N", help="default: one per CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args(argv)
    if args.num_procs is not None and args.num_procs < 1:
        raise InputError(f"--num-procs {args.num_procs}: expected 1 or more")
    for flag, values in (("--overlap", args.overlap), ("--score", args.score)):
        for value in values or ():
            if not 0 <= value <= 1:
                raise InputError(f"{flag} {value}: expected 0 to 1")
    if args.json:
        require_output_file(args.json, "--json", args.config_file, args.panoptic_json)
    cfg = load_config(args.config_file, args.opts)
    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    grid = itertools.product(
        args.overlap or [combine.OVERLAP_THRESH],
        args.stuff_area or [combine.STUFF_AREA_LIMIT],
        args.score or [combine.INSTANCES_CONFIDENCE_THRESH],
    )
    rows = sweep_merging(
        args.predictions,
        GroundTruth(args.panoptic_json, args.panoptic_root),
        result_metadata(cfg),
        [Thresholds(*values) for values in grid],
        args.num_procs,
    )
    print(format_sweep(rows))
    if args.json:
        content = [{**row.thresholds._asdict(), **asdict(row)} for row in rows]
        for row in content:
            del row["thresholds"]
        write_text(args.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
