#!/usr/bin/env python
"""Make Shapes, a synthetic COCO-panoptic data set, for Detectron2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ocr_panoptic.data.shapes.difficulty import EASY, HARD
from ocr_panoptic.data.shapes.writer import write_shapes
from ocr_panoptic.errors import ArgumentParser, command_line


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="training pictures")
    parser.add_argument("--val", type=int, default=200, metavar="N", help="validation pictures")
    parser.add_argument(
        "--size",
        type=int,
        metavar="S",
        help=f"side in pixels (default {EASY.size}, or {HARD.size} if hard)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="0 or more")
    parser.add_argument(
        "--difficulty",
        default="easy",
        help="easy: a demo; hard: many classes, deciding objects small and far (default easy)",
    )
    return parser.parse_args(argv)


@command_line
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and write the data set.

    Args:
        argv: without the program's name; None for those of the process.
    """
    args = _parse(argv)
    output = write_shapes(
        args.output,
        train=args.train,
        val=args.val,
        seed=args.seed,
        difficulty=args.difficulty,
        size=args.size,
    )
    print(f"{output}: {args.train} training and {args.val} validation pictures")


if __name__ == "__main__":
    raise SystemExit(main())
