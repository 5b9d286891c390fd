"""Convert checkpoints of other projects to this one's names, and back.

Example: python tools/convert_checkpoint.py --from torchvision --to detectron2 \\
    --input resnet50-11ad3fa6.pth --output R-50-torchvision.pth
"""

import argparse
import json
import sys
from pathlib import Path

from ocr_panoptic.convert import (
    FORMATS,
    Options,
    as_json,
    as_text,
    check_formats,
    convert_file,
)
from ocr_panoptic.engine.setup import TRUST_CHECKPOINT, load_config
from ocr_panoptic.errors import ArgumentParser, InputError, command_line
from ocr_panoptic.files import require_output_file, write_text


def arguments() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    width = max(map(len, FORMATS))
    formats = "\n".join(f"  {name:{width}}  {what}" for name, what in FORMATS.items())
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"formats:\n{formats}",
    )
    add = parser.add_argument
    add("--from", required=True, dest="source", metavar="FORMAT", help="of the input")
    add("--to", required=True, dest="target", metavar="FORMAT", help="of the output")
    add("--input", required=True, type=Path, metavar="FILE", help="checkpoint to read")
    add("--output", required=True, type=Path, metavar="FILE.pth", help="checkpoint to write")
    add("--json", type=Path, metavar="FILE", help="write what became of every tensor here")
    add("--config-file", metavar="FILE", help="load the result into the model of this config")
    add(
        "--num-classes",
        type=int,
        metavar="K",
        help="of the semantic prediction (--to panoptic-fpn-ocr); default: the input's",
    )
    add(
        "--prefix",
        help="in front of the names of a head (--to ocr, isa); default: sem_seg_head.",
    )
    add("--base", type=Path, metavar="FILE", help="put the head into these weights (--to ocr, isa)")
    add(
        "--allow-inexact",
        action="store_true",
        help="convert also what will not compute the same, such as leaky ReLUs",
    )
    add("--trust-checkpoint", **TRUST_CHECKPOINT)
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv``, the process's own where it is None."""
    args = arguments().parse_args(argv)
    options = Options(args.allow_inexact, args.num_classes, args.prefix, args.base)
    check_formats(args.source, args.target, options)
    if args.opts and not args.config_file:
        raise InputError(f"--opts {args.opts[0]}: expected with --config-file")
    if args.output.suffix != ".pth":
        # By another one Detectron2's own loader would take it for something else.
        raise InputError(f"--output {args.output}: expected a name that ends with .pth")
    inputs = (args.input, args.base, args.config_file)
    require_output_file(args.output, "--output", *inputs)
    if args.json:
        require_output_file(args.json, "--json", *inputs, args.output)
    cfg = load_config(args.config_file, args.opts) if args.config_file else None
    conversion = convert_file(
        args.source,
        args.target,
        args.input,
        args.output,
        options,
        cfg=cfg,
        trust=bool(args.trust_checkpoint),
    )
    print(f"{args.source} {args.input} to {args.target} {args.output}")
    print(as_text(conversion))
    if args.json:
        files = {"input": str(args.input), "output": str(args.output)}
        content = {"from": args.source, "to": args.target, **files, **as_json(conversion)}
        write_text(args.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
