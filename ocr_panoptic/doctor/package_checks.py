"""Checks of Python and its packages: what does not import, and which versions do not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .attempts import FAILED, NOT_TRIED, Attempt
from .attempts import OK as WENT_WELL
from .cures import PINNED, cure_of_import, cure_of_torchvision, torchvision_of
from .facts import Facts, version_numbers
from .finding import INFO, OK, PROBLEM, Finding
from .probes import DISTRIBUTIONS

__all__ = ["PACKAGE_CHECKS"]

_OLDEST_PYTHON = (3, 10)
# More are not forgotten one by one.
_FEW_MISSING = 3


def check_python(facts: Facts) -> Iterator[Finding]:
    """The version and kind of Python."""
    version = ".".join(map(str, facts.python))
    found = f"{facts.implementation} {version}"
    if facts.python < _OLDEST_PYTHON:
        cure = "install Python 3.10, then: bash tools/make_venv.sh .venv"
        yield Finding("python", PROBLEM, f"{found}, expected 3.10 or later", cure)
    elif facts.implementation != "CPython":
        cure = "install CPython 3.10, then: bash tools/make_venv.sh .venv"
        yield Finding("python", PROBLEM, f"{found}, torch is for CPython", cure)
    else:
        yield Finding("python", OK, found)


def check_this_package(facts: Facts) -> Iterator[Finding]:
    """Whether what is imported as ocr_panoptic is this working copy."""
    attempt = facts.attempts["ocr_panoptic"]
    if attempt.state != WENT_WELL:
        return  # told by the check of the imports
    folder = os.path.realpath(Path(attempt.found["file"]).parents[1])
    if folder == os.path.realpath(facts.repository):
        yield Finding("this-package", OK, f"ocr_panoptic is imported from {folder}")
        return
    yield Finding(
        "this-package",
        PROBLEM,
        f"ocr_panoptic is imported from {folder}, not from {facts.repository}, whose tools these "
        "are",
        facts.pip_install("--no-deps", "-e", facts.repository),
    )


def check_imports(facts: Facts) -> Iterator[Finding]:
    """Everything that is imported, and used a little."""
    waiting: dict[str, list[str]] = {}
    told: dict[str, str] = {}
    for probe, attempt in facts.attempts.items():
        if attempt.state == NOT_TRIED and probe in DISTRIBUTIONS and probe not in facts.origins:
            absent = Attempt(FAILED, error=f"No module named '{probe}'", missing=probe)
            yield _import_problem(facts, probe, absent)
        elif attempt.state == NOT_TRIED:
            waiting.setdefault(attempt.error, []).append(probe)
        elif attempt.state == WENT_WELL or _is_about_pkg_resources(facts, probe):
            continue
        elif attempt.error in told:
            # What it imports has failed before, and said the same.
            waiting.setdefault(told[attempt.error], []).append(probe)
        else:
            told[attempt.error] = probe
            yield _import_problem(facts, probe, attempt)
    for root, probes in waiting.items():
        found = f"cannot be tried without {root}: {', '.join(probes)}"
        yield Finding(f"without-{root}", INFO, found)
    well = sum(attempt.state == WENT_WELL for attempt in facts.attempts.values())
    if well == len(facts.attempts):
        yield Finding("imports", OK, f"all {well} imports and uses went well")


def _import_problem(facts: Facts, probe: str, attempt: Attempt) -> Finding:
    meaning, cure = cure_of_import(facts, probe, attempt)
    shadow = _shadow(facts, probe.split(".")[0])
    if shadow is not None and not meaning:
        meaning, cure = shadow
    status = PROBLEM
    if probe == "hotcoco" and attempt.missing == "hotcoco":
        # Everything else runs without it, as on a machine without a package index.
        status, meaning = INFO, "only TEST.PANOPTIC.COUNTER hotcoco needs it"
    found = f"{probe}: {attempt.error}{f' ({meaning})' if meaning else ''}"
    return Finding(f"import-{probe}", status, found, cure, attempt.traceback)


def _is_about_pkg_resources(facts: Facts, probe: str) -> bool:
    attempt = facts.attempts[probe]
    missing = attempt.state == FAILED and attempt.missing == "pkg_resources"
    return probe == "pkg_resources" or (probe == "detectron2.model_zoo" and missing)


def check_environment(facts: Facts) -> Iterator[Finding]:
    """Whether this is the environment that the project was installed in at all."""
    missing = [module for module in DISTRIBUTIONS if module not in facts.origins]
    if len(missing) <= _FEW_MISSING:
        return
    found = f"{len(missing)} of {len(DISTRIBUTIONS)} packages are missing from {facts.prefix}"
    python = Path(facts.repository, ".venv", "bin", "python")
    if python.is_file() and os.path.realpath(facts.prefix) != os.path.realpath(python.parents[1]):
        cure = f"use the environment that is there: {python} tools/doctor.py"
    else:
        cure = "make an environment with all of them: bash tools/make_venv.sh .venv"
    yield Finding("environment", PROBLEM, found, cure)


def check_pkg_resources(facts: Facts) -> Iterator[Finding]:
    """pkg_resources, which setuptools 82 removed, and Detectron2's model zoo imports."""
    attempt = facts.attempts["pkg_resources"]
    version = facts.version("setuptools")
    found = f"setuptools {version}" if version else "no setuptools"
    cure = facts.pip_install(PINNED["setuptools"])
    if attempt.state == WENT_WELL:
        if version_numbers(version)[:1] >= (82,):
            where = attempt.found["file"]
            found += f", which has no pkg_resources, and one of another version at {where}"
            yield Finding("pkg-resources", INFO, found, cure)
        else:
            yield Finding("pkg-resources", OK, f"{found} has pkg_resources")
    elif facts.ok("detectron2.model_zoo"):
        found += f": pkg_resources: {attempt.error}; this Detectron2 does not need it"
        yield Finding("pkg-resources", INFO, found)
    else:
        found += f": pkg_resources: {attempt.error}; detectron2.model_zoo needs it, "
        found += "this project does not"
        yield Finding("pkg-resources", PROBLEM, found, cure)


def check_torchvision(facts: Facts) -> Iterator[Finding]:
    """Whether torchvision is the one that was made for this torch."""
    if not facts.ok("torchvision"):
        return  # told by the check of the imports
    torch_version = facts.found("torch")["version"]
    version = facts.found("torchvision")["version"]
    required = torchvision_of(torch_version)
    found = f"torch {torch_version} and torchvision {version}"
    if required is None or version_numbers(version)[:2] == version_numbers(required[13:-2]):
        yield Finding("torchvision", OK, f"{found} belong together")
    else:
        found += f"; made for this torch is {required.replace('==', ' ')}"
        yield Finding("torchvision", PROBLEM, found, cure_of_torchvision(facts))


def check_numpy(facts: Facts) -> Iterator[Finding]:
    """What Detectron2 does wrong with numpy 2."""
    version = facts.found("numpy").get("version")
    if version is None:
        return  # told by the check of the imports
    if version_numbers(version)[:1] < (2,):
        yield Finding("numpy-2", OK, f"numpy {version}, of which all versions of Detectron2 know")
        return
    found = (
        f"numpy {version}: Detectron2's SemSegEvaluator fails to load labels and its panoptic "
        "results are np.float64; this project loads labels and converts results itself"
    )
    yield Finding("numpy-2", INFO, found)


def check_weights_only(facts: Facts) -> Iterator[Finding]:
    """How torch reads checkpoints by default."""
    if not facts.ok("torch"):
        return
    version = facts.found("torch")["version"]
    if version_numbers(version)[:2] < (2, 6):
        found = f"torch {version} runs what is in a pickle"
    else:
        found = f"torch {version} refuses numpy values in checkpoints, as older Detectron2 wrote"
    found += "; this project reads checkpoints with a safe unpickler of its own"
    yield Finding("weights-only", INFO if "refuses" in found else OK, found)


def check_opencv(facts: Facts) -> Iterator[Finding]:
    """Several distributions that install the same module."""
    names = sorted(
        name
        for name in facts.installed
        if name.startswith("opencv-") and ("python" in name or "headless" in name)
    )
    versions = [f"{name} {facts.version(name)}" for name in names]
    if len(names) > 1:
        # Removing one takes files of the other away: both go, one comes back.
        keep = min(names, key=lambda name: ("contrib" in name, "headless" in name, name))
        version = facts.version(keep)
        cure = f"{facts.pip_uninstall(*names)} && {facts.pip_install(f'{keep}=={version}')}"
        found = f"{' and '.join(versions)} install the same module cv2 over each other"
        yield Finding("opencv", PROBLEM, found, cure)
    elif names:
        yield Finding("opencv", OK, f"{versions[0]} alone gives cv2")


def check_panopticapi(facts: Facts) -> Iterator[Finding]:
    """The official panopticapi and its repackaging, which install the same module."""
    if {"panopticapi", "panopticapi-lite"} <= set(facts.installed):
        found = (
            "panopticapi and panopticapi-lite install the same module; their logic is equal, but "
            "removing one takes files of the other away"
        )
        yield Finding("panopticapi", INFO, found, facts.pip_uninstall("panopticapi"))


def _shadow(facts: Facts, module: str) -> tuple[str, str] | None:
    """Return what stands in front of an installed module and the cure, None if nothing does."""
    entries, file = (
        facts.installed.get(DISTRIBUTIONS.get(module, ""), ()),
        facts.origins.get(module),
    )
    if not entries or file is None or any(entry.editable for entry in entries):
        return None
    package = Path(file).parent if Path(file).stem == "__init__" else Path(file)
    if os.path.realpath(package.parent) in {os.path.realpath(entry.folder) for entry in entries}:
        return None
    return (
        f"it is {package}, not {entries[0].name} {entries[0].version} of {entries[0].folder}",
        f"take {package.parent} out of PYTHONPATH, or rename {package}",
    )


def check_shadows(facts: Facts) -> Iterator[Finding]:
    """Modules that are imported from elsewhere than where they are installed."""
    shadows = {module: _shadow(facts, module) for module in DISTRIBUTIONS}
    for module, shadow in shadows.items():
        if shadow is not None:
            found, cure = shadow
            yield Finding(f"shadowed-{module}", PROBLEM, f"{module}: {found}", cure)
    if not any(shadows.values()):
        yield Finding("shadowed", OK, "every package is imported from where it is installed")


def check_twice(facts: Facts) -> Iterator[Finding]:
    """Packages that pip knows in two versions."""
    names = sorted({*DISTRIBUTIONS.values(), "detectron2"} & set(facts.installed))
    for name in names:
        entries = facts.installed[name]
        if len({entry.version for entry in entries}) < 2:
            continue
        versions = " and ".join(f"{entry.version} in {entry.folder}" for entry in entries)
        same = len({os.path.realpath(entry.folder) for entry in entries}) < len(entries)
        if same:
            # An update that was cut short: files of both may lie there.
            remove = [facts.pip_uninstall(name)] * len(entries)
            cure = " && ".join([*remove, facts.pip_install(f"{name}=={entries[0].version}")])
            yield Finding(f"twice-{name}", PROBLEM, f"{name} is installed twice: {versions}", cure)
        else:
            found = f"{name} is installed twice, the first counts: {versions}"
            yield Finding(f"twice-{name}", INFO, found)


def check_tools_package(facts: Facts) -> Iterator[Finding]:
    """A top-level package called "tools"."""
    if facts.tools_package is None:
        yield Finding("stray-tools", OK, "no package is called 'tools'")
        return
    folder = Path(facts.tools_package).parent
    owner = "sal-detectron2's wheel" if facts.version("sal-detectron2") else "some package"
    found = (
        f"{owner} put a top-level package 'tools' at {folder}: 'import tools' gives that one; "
        "nothing in this project imports it, its tools are files"
    )
    yield Finding("stray-tools", INFO, found)


PACKAGE_CHECKS = (
    check_python,
    check_environment,
    check_this_package,
    check_imports,
    check_pkg_resources,
    check_torchvision,
    check_numpy,
    check_weights_only,
    check_opencv,
    check_panopticapi,
    check_shadows,
    check_twice,
    check_tools_package,
)
"""Each takes :class:`.facts.Facts` and yields :class:`.finding.Finding`."""
