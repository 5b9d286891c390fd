"""Predict a data set in float32 and through the inference path, and count where they differ.

Example: python tools/compare_inference.py --config-file configs/... --dtype bfloat16 \\
    --opts MODEL.WEIGHTS model_final.pth
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ocr_panoptic.engine.compare import compare_inference
from ocr_panoptic.engine.inference import DTYPES
from ocr_panoptic.engine.setup import TRUST_CHECKPOINT
from ocr_panoptic.errors import BAD_INPUT, ArgumentParser, command_line
from ocr_panoptic.evaluation.agreement import format_agreement
from ocr_panoptic.files import require_output_file, write_text


@command_line
def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 within the bounds, 2 not, or bad input.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="default: auto")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--trust-checkpoint", **TRUST_CHECKPOINT)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args(argv)
    if args.json:  # before predicting, which takes long
        require_output_file(args.json, "--json", args.config_file)
    agreement, dtype = compare_inference(
        args.config_file, [*args.trust_checkpoint, *args.opts], args.dtype, args.limit
    )
    print(format_agreement(agreement, dtype))
    if args.json:
        content = {"dtype": dtype, **asdict(agreement), "is_kept": agreement.is_kept}
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    return 0 if agreement.is_kept else BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
