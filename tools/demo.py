"""Make Shapes, train a small Panoptic-FPN + OCR on them, evaluate it and draw what it sees."""

import argparse
import sys
from pathlib import Path

from ocr_panoptic.engine.demo import run_demo
from ocr_panoptic.errors import ArgumentParser, command_line

CONFIGS = Path(__file__).parents[1] / "configs"


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config-file",
        default=str(CONFIGS / "Shapes-PanopticSegmentation/panoptic_fpn_ocr_tiny.yaml"),
        metavar="FILE",
        help="a config for the easy Shapes",
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument("--train", type=int, default=500, metavar="N", help="training images")
    parser.add_argument("--val", type=int, default=120, metavar="N", help="held-out images")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args(argv)
    run_demo(
        args.config_file,
        args.output,
        train_images=args.train,
        val_images=args.val,
        overrides=args.opts,
    )


if __name__ == "__main__":
    sys.exit(main())
