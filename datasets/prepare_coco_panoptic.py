#!/usr/bin/env python
"""Derive semantic PNGs and an instances json from one COCO panoptic json and its PNGs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.errors import ArgumentParser, command_line

_EPILOG = """\
Semantic PNGs: 8-bit greyscale, named after the images, things 0, stuff 1 to n in the order of the
category ids, unlabelled pixels 255 (for COCO n is 53: MODEL.SEM_SEG_HEAD.NUM_CLASSES 54).
Instances json: COCO format, things only, with the exact masks of the PNGs as RLE.

Where one of the two outputs exists (for example the instances json that COCO publishes), it is left
alone, one line says so, and the other one is made. Where both exist, the command is refused unless
--overwrite is given, which makes both again; to make only one again, remove it first.
An output appears under its name only when it is whole; a run that is killed may leave S.partial-N,
which can be removed.

Exit status: 0 done, 2 bad input (one line on stderr).
"""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panoptic-json", required=True, metavar="J", help="COCO panoptic json")
    parser.add_argument("--panoptic-root", required=True, metavar="P", help="folder of its PNGs")
    parser.add_argument(
        "--semantic-root",
        metavar="S",
        help="folder to make; default: P with 'panoptic_' replaced by 'panoptic_stuff_'",
    )
    parser.add_argument(
        "--instances-json",
        metavar="I",
        help="json to make; default: J with 'panoptic_' replaced by 'instances_' in its name",
    )
    parser.add_argument("--overwrite", action="store_true", help="make existing outputs again")
    parser.add_argument(
        "--num-processes", type=int, metavar="N", help="default: one per CPU, at most 16"
    )
    return parser.parse_args(argv)


@command_line
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = _parse(argv)
    made = prepare_coco_panoptic(
        arguments.panoptic_json,
        arguments.panoptic_root,
        arguments.semantic_root,
        arguments.instances_json,
        overwrite=arguments.overwrite,
        num_processes=arguments.num_processes,
    )
    if made.semantic_written:
        print(f"{made.semantic_root}: {made.num_images} semantic PNGs")
    else:
        print(f"{made.semantic_root}: exists, left as it is (--overwrite makes it again)")
    if made.instances_written:
        print(f"{made.instances_json}: {made.num_instances} instances of {made.num_images} images")
    else:
        print(f"{made.instances_json}: exists, left as it is (--overwrite makes it again)")
    print(
        f"config: MODEL.SEM_SEG_HEAD.NUM_CLASSES {made.num_sem_seg_classes}"
        f" MODEL.ROI_HEADS.NUM_CLASSES {made.num_thing_classes}"
    )


if __name__ == "__main__":
    sys.exit(main())
