"""Say what is installed, what is known to hinder, and the command that cures it.

Versions, devices, compiled operators, checks, and a training of two iterations on each device.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

if sys.version_info < (3, 10):  # noqa: UP036
    # An older one cannot even read what follows.
    print("error: Python 3.10 or later is needed: bash tools/make_venv.sh .venv", file=sys.stderr)
    sys.exit(2)
if "ocr_panoptic" not in sys.modules:
    # Importing the package itself imports Detectron2, which may be what does not work. Its parts
    # that need nothing else are found through a package whose __init__.py is not run.
    _spec = importlib.machinery.PathFinder.find_spec("ocr_panoptic", [str(REPOSITORY)])
    sys.modules["ocr_panoptic"] = importlib.util.module_from_spec(_spec)

from ocr_panoptic.doctor.examination import run_checks, run_self_test  # noqa: E402
from ocr_panoptic.doctor.facts import gather_facts  # noqa: E402
from ocr_panoptic.doctor.report import (  # noqa: E402
    Report,
    describe_devices,
    describe_versions,
    format_findings,
    format_tables,
)
from ocr_panoptic.errors import BAD_INPUT, ArgumentParser, command_line  # noqa: E402
from ocr_panoptic.files import require_output_file, write_text  # noqa: E402

_EPILOG = """\
Exit status: 0 nothing hinders (notes do not count), 2 there is a problem; the line on stderr names
it. Nothing is installed or changed.
"""


@command_line
def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv``, the process's own where it is None."""
    parser = ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write all that is printed here too")
    add("--no-self-test", dest="self_test", action="store_false", help="do not train and evaluate")
    add(
        "--output",
        type=Path,
        default=Path("output"),
        metavar="DIR",
        help="where runs are going to be written, to look at its disk; default: output",
    )
    args = parser.parse_args(argv)
    if args.json:
        require_output_file(args.json, "--json")
    # Closed, it is None.
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, 140) if terminal else 100
    style = {"width": width, "color": terminal and "NO_COLOR" not in os.environ}
    facts = gather_facts(REPOSITORY, args.output)
    report = Report(describe_versions(facts), describe_devices(facts), run_checks(facts))
    print(format_tables(report, width=width))
    print(format_findings("Checks", report.findings, **style), flush=True)
    if args.self_test:
        report = replace(report, self_test=run_self_test(facts))
        print(format_findings("Self-test", report.self_test, **style))
    if args.json:
        write_text(args.json, json.dumps(report.to_json(), indent=1) + "\n")
    if report.problems:
        print(f"error: {report.summary()}", file=sys.stderr)
        return BAD_INPUT
    print(report.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
