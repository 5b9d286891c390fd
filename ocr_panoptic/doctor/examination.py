"""The whole examination: every check, and the self-test."""

from __future__ import annotations

from pathlib import Path

from .attempts import OK as WENT_WELL
from .attempts import Attempt, attempt_all
from .cures import REPORT_IT, cure_of_import
from .detectron2_checks import DETECTRON2_CHECKS
from .device_checks import DEVICE_CHECKS
from .facts import Facts
from .finding import INFO, OK, PROBLEM, Finding
from .machine_checks import MACHINE_CHECKS
from .package_checks import PACKAGE_CHECKS

__all__ = ["CHECKS", "run_checks", "run_self_test"]

CHECKS = (*PACKAGE_CHECKS, *DETECTRON2_CHECKS, *DEVICE_CHECKS, *MACHINE_CHECKS)
"""All checks, in the order of the report."""

_SELF_TEST = Path(__file__).with_name("self_test.py")
_SELF_TEST_SECONDS = 900


def run_checks(facts: Facts) -> list[Finding]:
    """Judge what was gathered."""
    return [finding for check in CHECKS for finding in check(facts)]


def run_self_test(facts: Facts) -> list[Finding]:
    """Train two iterations and evaluate an image, on each device; a finding for each."""
    if not facts.ok("ocr_panoptic"):
        return [Finding("self-test", INFO, "not run, as ocr_panoptic cannot be imported")]
    gpus = range(len(facts.found("torch-cuda").get("devices", ())))
    names = ["cpu float32"]
    names += [f"cuda:{gpu} {precision}" for gpu in gpus for precision in ("float32", "AMP")]
    attempts = attempt_all(_SELF_TEST, dict.fromkeys(names, ()), timeout=_SELF_TEST_SECONDS)
    return [_self_test_finding(facts, name, attempt) for name, attempt in attempts.items()]


def _self_test_finding(facts: Facts, name: str, attempt: Attempt) -> Finding:
    label = f"self-test-{name.replace(' ', '-')}"
    if attempt.state != WENT_WELL:
        meaning, _ = cure_of_import(facts, "ocr_panoptic", attempt)
        found = (
            f"training or evaluation failed: {attempt.error}{f' ({meaning})' if meaning else ''}"
        )
        return Finding(label, PROBLEM, found, REPORT_IT, attempt.traceback)
    found = attempt.found
    return Finding(
        label,
        OK,
        f"2 iterations in {found['training']:.1f} s, evaluation of an image in "
        f"{found['evaluation']:.1f} s, with imports {attempt.seconds:.1f} s",
    )
