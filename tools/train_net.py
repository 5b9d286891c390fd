"""Train or evaluate a config: Detectron2's arguments, Detectron2's launcher.

Example: python tools/train_net.py --config-file configs/... --num-gpus 8 SOLVER.BASE_LR 0.01
"""

import sys

from ocr_panoptic.engine.launch import launch_run
from ocr_panoptic.engine.setup import argument_parser
from ocr_panoptic.errors import command_line


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    launch_run(argument_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
