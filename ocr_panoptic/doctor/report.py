"""The doctor's report: what is here, what was found, how to cure it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from ocr_panoptic.errors import printable

from .attempts import NOT_TRIED
from .detectron2_checks import describe_detectron2, describe_operators
from .device_checks import describe_gpus
from .facts import Facts
from .finding import INFO, OK, PROBLEM, Finding
from .machine_checks import gibibytes

__all__ = ["Report", "describe_devices", "describe_versions", "format_findings", "format_tables"]

# Distributions whose versions are printed; those of NVIDIA and others follow torch's.
_VERSIONS = (
    *("torchvision", "numpy", "pillow", "opencv-python", "pycocotools", "panopticapi-lite"),
    *("hotcoco", "fvcore", "iopath", "setuptools", "shapely", "tensorboard", "matplotlib"),
    *("omegaconf", "hydra-core", "pyyaml"),
)
# What may be there instead, or, wrongly, beside.
_INSTEAD = {
    "opencv-python": (
        *("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
    "panopticapi-lite": ("panopticapi",),
}
_COLORS = {OK: "32", INFO: "36", PROBLEM: "1;31"}


@dataclass(frozen=True)
class Report:
    """All that the doctor says.

    Attributes:
        versions: label -> version.
        devices: label -> what it is; several GPUs are numbered.
        findings: of the checks.
        self_test: what came of each device and precision; empty if it was not run.
    """

    versions: Mapping[str, str]
    devices: Mapping[str, str]
    findings: Sequence[Finding]
    self_test: Sequence[Finding] = ()

    @property
    def problems(self) -> list[Finding]:
        """Those of all findings that hinder."""
        return [f for f in (*self.findings, *self.self_test) if f.status == PROBLEM]

    def summary(self) -> str:
        """Return one line: how many problems and notes there are, and which problems."""
        notes = sum(f.status == INFO for f in (*self.findings, *self.self_test))
        names = [finding.id for finding in self.problems]
        problems = f"{len(names)} problem{'s'[: len(names) != 1]}" if names else "no problems"
        listed = f": {', '.join(names)}" if names else ""
        return f"{problems}, {notes} note{'s'[: notes != 1]}{listed}"

    def to_json(self) -> dict:
        """Return the report as json can hold it."""
        return {
            "versions": dict(self.versions),
            "devices": dict(self.devices),
            "checks": [asdict(finding) for finding in self.findings],
            "self_test": [asdict(finding) for finding in self.self_test],
            "problems": [finding.id for finding in self.problems],
        }


def describe_versions(facts: Facts) -> dict[str, str]:
    """Return label -> version of what the project stands on."""
    torch = facts.found("torch")
    versions = {
        "Python": f"{'.'.join(map(str, facts.python))} ({facts.implementation}), {facts.prefix}",
        "system": facts.machine.system,
        "ocr_panoptic": f"{facts.version('ocr-panoptic') or 'not installed'}, {facts.repository}",
        "detectron2": describe_detectron2(facts) or _failed(facts, "detectron2"),
        "operators": describe_operators(facts),
        "torch": torch.get("version") or _failed(facts, "torch"),
    }
    if torch:
        versions["CUDA of torch"] = (
            torch["cuda"] or (torch["hip"] and f"ROCm {torch['hip']}") or "none"
        )
        versions["cuDNN"] = _cudnn(torch["cudnn"])
    for name in _VERSIONS:
        names = [each for each in (name, *_INSTEAD.get(name, ())) if facts.version(each)]
        versions.update({each: facts.version(each) for each in names} or {name: "missing"})
    return versions


def _failed(facts: Facts, probe: str) -> str:
    attempt = facts.attempts[probe]
    if attempt.state == NOT_TRIED:
        return f"not tried without {attempt.error}"
    return f"{attempt.state}: {attempt.error}"


def _cudnn(number: int | None) -> str:
    """Return 8902 as 8.9.2, and 91002 as 9.10.2."""
    if not number:
        return "none"
    major = 10000 if number >= 90000 else 1000
    return f"{number // major}.{number % major // 100}.{number % 100}"


def describe_devices(facts: Facts) -> dict[str, str]:
    """Return label -> what this machine has; several GPUs are numbered."""
    machine = facts.machine
    features = f", {', '.join(machine.features)}" if machine.features else ""
    threads = facts.found("torch").get("threads")
    devices = {
        "CPU": f"{machine.cpu}{features}",
        "cores": f"{machine.usable_cores:g} usable of {machine.cores}"
        + (f", torch computes with {threads} thread(s)" if threads else ""),
        "memory": f"{gibibytes(machine.memory)}, {gibibytes(machine.memory_available)} available",
        "/dev/shm": f"{gibibytes(machine.shared_memory)}, "
        f"{gibibytes(machine.shared_memory_free)} free",
    }
    for label, disk in (
        ("output", machine.output),
        ("cache", machine.cache),
        ("temporary", machine.temporary),
    ):
        devices[label] = f"{disk.path}: {gibibytes(disk.free)} free" if disk else "none"
    gpus = describe_gpus(facts) or ["none"]
    return {
        **devices,
        **{f"GPU {n}" if len(gpus) > 1 else "GPU": gpu for n, gpu in enumerate(gpus)},
    }


def format_tables(report: Report, *, width: int) -> str:
    """Return versions and devices for a terminal, in lines of ``width`` letters."""
    lines = []
    for title, table in (("Versions", report.versions), ("Devices", report.devices)):
        lines += [title, *_table(table, width), ""]
    return "\n".join(lines)


def format_findings(
    title: str, findings: Sequence[Finding], *, width: int, color: bool = False
) -> str:
    """Return findings for a terminal.

    Args:
        title: above them.
        findings: one or more.
        width: of the lines, letters; cures are not broken, so that they can be copied.
        color: whether to paint the states, with ANSI codes.
    """
    lines = [title]
    # What matters most is read last, just above the prompt.
    findings = sorted(findings, key=lambda finding: (OK, INFO, PROBLEM).index(finding.status))
    longest = max(len(finding.id) for finding in findings)
    for finding in findings:
        head = f"  {finding.status:<7}  {finding.id:<{longest}}  "
        first, *rest = _wrapped(head, printable(finding.found), width)
        if color:
            painted = f"\x1b[{_COLORS[finding.status]}m{finding.status:<7}\x1b[0m"
            first = first.replace(f"{finding.status:<7}", painted, 1)
        lines += [first, *rest]
        if finding.cure:
            lines.append(f"{' ' * len(head)}-> {printable(finding.cure)}")
    return "\n".join([*lines, ""])


def _table(table: Mapping[str, str], width: int) -> Iterator[str]:
    longest = max(map(len, table))
    for label, value in table.items():
        yield from _wrapped(f"  {label:<{longest}}  ", printable(value), width)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text or "-",
        width=max(width, len(head) + 40),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
