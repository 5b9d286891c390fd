"""Predict images, and write the results in COCO's formats; no annotations are needed.

Example: python tools/predict.py --config-file configs/... --input images/ \\
    --output output/predicted --opts MODEL.WEIGHTS model_final.pth
"""

import argparse
import sys
from pathlib import Path

from ocr_panoptic.engine.inference import DTYPES
from ocr_panoptic.engine.predict import Outputs, predict
from ocr_panoptic.engine.setup import TRUST_CHECKPOINT
from ocr_panoptic.errors import BAD_INPUT, ArgumentParser, command_line


@command_line
def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, videos, folders of them, or patterns such as 'images/*.jpg'",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new, or to go on with")
    parser.add_argument(
        "--image-info", type=Path, metavar="JSON", help="COCO list of images: their names and ids"
    )
    parser.add_argument(
        "--skip-unlisted", action="store_true", help="leave out images that --image-info has not"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw no panoptic maps")
    parser.add_argument(
        "--save-semantic", action="store_true", help="write semantic maps too, for tools/sweep.py"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="auto: bfloat16 where the device is fast in it; default: the config's TEST.DTYPE",
    )
    parser.add_argument("--trust-checkpoint", **TRUST_CHECKPOINT)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="overrides of the config, last on the line, such as MODEL.WEIGHTS model_final.pth",
    )
    args = parser.parse_args(argv)
    files, failures = predict(
        args.config_file,
        [*args.trust_checkpoint, *args.opts],
        args.input,
        Outputs(args.output, pictures=not args.no_pictures, semantic=args.save_semantic),
        image_info=args.image_info,
        skip_unlisted=args.skip_unlisted,
        dtype=args.dtype,
    )
    for path in files:
        print(path)
    return BAD_INPUT if failures else 0


if __name__ == "__main__":
    sys.exit(main())
