"""Which classes a semantic prediction confuses, from what an evaluation wrote.

Example: python tools/confusion.py --config-file configs/... --pairs lake,ice forest,orchard \\
    --opts OUTPUT_DIR output/trained
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from detectron2.data import MetadataCatalog

from ocr_panoptic.engine.progress import quiet_console
from ocr_panoptic.engine.setup import check_config, load_config
from ocr_panoptic.engine.trainer import results_folder
from ocr_panoptic.errors import ArgumentParser, InputError, command_line
from ocr_panoptic.evaluation.confusion import (
    confusion_matrix,
    format_pairs,
    most_confused,
    pair_confusion,
    parse_pair,
)
from ocr_panoptic.files import require_output_file, write_text


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="as evaluated with")
    parser.add_argument(
        "--pairs",
        nargs="+",
        metavar="CLASS,CLASS",
        help="names of classes; default: the pairs with the most swapped pixels",
    )
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="how many, without --pairs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise InputError(f"--top {args.top}: expected 1 or more")
    if args.json:
        require_output_file(args.json, "--json", args.config_file)
    quiet_console()
    cfg = load_config(args.config_file, args.opts)
    check_config(cfg, train=False)
    found = {}
    for name in cfg.DATASETS.TEST:
        names = MetadataCatalog.get(name).get("stuff_classes")
        if names is None:
            raise InputError(
                f"DATASETS.TEST: {name} has no semantic classes, expected one that has"
            )
        pairs = [parse_pair(text, names) for text in args.pairs or ()]
        matrix = confusion_matrix(results_folder(cfg, name) / "sem_seg_predictions.json", name)
        found[name] = (
            [pair_confusion(matrix, names, pair) for pair in pairs]
            if pairs
            else most_confused(matrix, names, args.top)
        )
        print(f"{name}\n\n{format_pairs(found[name])}")
    if args.json:
        content = {name: [asdict(pair) for pair in pairs] for name, pairs in found.items()}
        write_text(args.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
