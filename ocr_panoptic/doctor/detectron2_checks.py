"""Checks of Detectron2: which one it is, and its compiled operators."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .attempts import OK as WENT_WELL
from .cures import OFFICIAL, PINNED, cure_of_detectron2, has_pinned_wheel
from .facts import Facts, version_numbers
from .finding import INFO, OK, PROBLEM, Finding

__all__ = ["DETECTRON2_CHECKS", "describe_detectron2", "describe_operators"]

_WITHOUT = (
    "deformable convolutions, rotated boxes and the fast COCO evaluation; nothing here needs the "
    "first two, and evaluation falls back to pycocotools"
)


def describe_detectron2(facts: Facts) -> str:
    """Return which Detectron2 is imported, for people."""
    if not facts.ok("detectron2"):
        return ""
    version = facts.found("detectron2")["version"]
    if "sal-detectron2" in facts.installed:
        pinned = " (pinned)" if has_pinned_wheel(facts) else ""
        return f"{version}, sal-detectron2 {facts.version('sal-detectron2')}{pinned}"
    if "detectron2" in facts.installed:
        commit = facts.installed["detectron2"][0].commit
        return f"{version}, official{f' at commit {commit[:12]}' if commit else ''}"
    return f"{version}, not installed by pip"


def describe_operators(facts: Facts) -> str:
    """Return whether the compiled operators are there, for people."""
    attempt = facts.attempts["detectron2._C"]
    if attempt.state != WENT_WELL:
        return "unknown" if not facts.ok("detectron2") else f"broken: {attempt.error}"
    if not attempt.found["present"]:
        return f"absent: no {_WITHOUT}"
    return f"present, {attempt.found['cuda']}, {attempt.found['compiler']}"


def check_which(facts: Facts) -> Iterator[Finding]:
    """Which Detectron2 is installed."""
    both = [name for name in ("detectron2", "sal-detectron2") if name in facts.installed]
    if len(both) == 2:
        found = f"{' and '.join(both)} install the same module over each other"
        # Removing one takes files of the other away.
        cure = f"{facts.pip_uninstall(*both)} && {cure_of_detectron2(facts)}"
        yield Finding("detectron2", PROBLEM, found, cure)
    elif facts.ok("detectron2"):
        yield Finding("detectron2", OK, describe_detectron2(facts))


def check_pins(facts: Facts) -> Iterator[Finding]:
    """What the pinned wheel of Detectron2 was compiled for."""
    if not has_pinned_wheel(facts):
        return
    wrong = [name for name in ("torch", "torchvision") if not _is_pinned(facts, name)]
    if wrong:
        found = ", ".join(f"{name} {facts.version(name) or 'missing'}" for name in wrong)
        pins = [PINNED[name] for name in ("torch", "torchvision")]
        cure = facts.pip_install(*pins, PINNED["numpy"])
        found = f"{found}: the operators of sal-detectron2 were compiled for {' and '.join(pins)}"
        yield Finding("pins", PROBLEM, found, cure)
    else:
        yield Finding("pins", OK, "torch and torchvision are those of the pinned Detectron2")


def _is_pinned(facts: Facts, name: str) -> bool:
    pinned = version_numbers(PINNED[name].partition("==")[2])
    return version_numbers(facts.version(name)) == pinned


def check_operators(facts: Facts) -> Iterator[Finding]:
    """The compiled operators, detectron2._C, and the CUDA that they were compiled for."""
    attempt = facts.attempts["detectron2._C"]
    if attempt.state != WENT_WELL:
        return  # told by the check of the imports
    found = attempt.found
    if not found["present"]:
        files = ", ".join(found["files"])
        other = f" ({files} is for another Python)" if files else ""
        cure = f"where they are needed: {facts.pip_install('--no-build-isolation', OFFICIAL)}"
        yield Finding("operators", INFO, f"detectron2._C is absent{other}: no {_WITHOUT}", cure)
        return
    yield Finding("operators", OK, f"detectron2._C, {found['cuda']}, {found['compiler']}")
    theirs = _numbers(found["cuda"])
    ours = version_numbers(facts.found("torch").get("cuda") or "")
    if not theirs:
        if facts.found("torch-cuda").get("devices"):
            text = "the operators were compiled without CUDA: rotated boxes and deformable "
            text += "convolutions stay on the CPU, which nothing here needs"
            cure = f"FORCE_CUDA=1 {facts.pip_install('--no-build-isolation', OFFICIAL)}"
            yield Finding("operators-cuda", INFO, text, f"where they are needed: {cure}")
    elif theirs[:1] != ours[:1]:
        torch_cuda = f"CUDA {facts.found('torch').get('cuda')}" if ours else "no CUDA"
        text = f"the operators were compiled for {found['cuda']}, torch for {torch_cuda}"
        yield Finding("operators-cuda", PROBLEM, text, cure_of_detectron2(facts))
    else:
        text = f"operators ({found['cuda']}) and torch (CUDA {facts.found('torch')['cuda']}) agree"
        yield Finding("operators-cuda", OK, text)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.search(r"\d+(\.\d+)*", text or "")
    return version_numbers(match[0]) if match else ()


def check_sampler(facts: Facts) -> Iterator[Finding]:
    """How Detectron2's own train loader is seeded."""
    if facts.found("detectron2").get("seeded_sampler"):
        found = (
            "with SEED -1, this Detectron2's own train loader has one fixed order; this project's "
            "loader draws a seed once and stores it"
        )
        yield Finding("sampler-seed", INFO, found)


DETECTRON2_CHECKS = (check_which, check_pins, check_operators, check_sampler)
"""Each takes :class:`.facts.Facts` and yields :class:`.finding.Finding`."""
