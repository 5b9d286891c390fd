"""Everything that the checks judge, gathered once."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .attempts import OK, Attempt, attempt_all
from .machine import Machine, examine_machine
from .probes import DISTRIBUTIONS, NEEDS

__all__ = ["Distribution", "Facts", "gather_facts", "version_numbers"]

_PROBES = Path(__file__).with_name("probes.py")
# Minutes, for a disk of a network that is slow; what takes longer does not come back.
_PROBE_SECONDS = 600


@dataclass(frozen=True)
class Distribution:
    """A package as pip sees it.

    Attributes:
        name: as it calls itself.
        version: of its metadata.
        folder: on Python's path, in which its metadata lie.
        editable: whether it is a working copy that lies somewhere else.
        commit: of the repository that it was installed from, empty if it was not.
    """

    name: str
    version: str
    folder: str
    editable: bool = False
    commit: str = ""


@dataclass(frozen=True)
class Facts:
    """What there is to judge.

    Attributes:
        python: version, such as (3, 10, 13).
        implementation: "CPython", usually.
        executable: the interpreter, as one would type it.
        prefix: of the virtual environment, or of the installation.
        installer: "pip", "uv" where the environment has no pip, or "" where there is neither.
        repository: the folder that this doctor belongs to.
        installed: name in lower case with dashes -> distributions, in the order of Python's path:
            the first is the one that is imported.
        origins: module -> the file that Python finds for it, whether or not it can be imported.
        attempts: probe -> what came of it.
        machine: the computer.
        environment: variables.
        datasets: kinds of data that are in the folder of data sets.
        tools_package: file of a top-level package called "tools", None if there is none.
    """

    python: tuple[int, ...]
    implementation: str
    executable: str
    prefix: str
    installer: str
    repository: str
    installed: Mapping[str, tuple[Distribution, ...]]
    origins: Mapping[str, str]
    attempts: Mapping[str, Attempt]
    machine: Machine
    environment: Mapping[str, str]
    datasets: tuple[str, ...]
    tools_package: str | None

    def version(self, name: str) -> str:
        """Return the version of a distribution, "" if it is not installed."""
        found = self.installed.get(name)
        return found[0].version if found else ""

    def ok(self, probe: str) -> bool:
        """Return whether a probe went well."""
        return probe in self.attempts and self.attempts[probe].state == OK

    def found(self, probe: str) -> Mapping:
        """Return what a probe found, nothing if it did not go well."""
        return self.attempts[probe].found if probe in self.attempts else {}

    def pip_install(self, *words: str) -> str:
        """Return the command that installs ``words``, requirements and options."""
        return " ".join([*self._pip("install"), *map(_quoted, words)])

    def pip_uninstall(self, *names: str) -> str:
        """Return the command that removes distributions, without a question."""
        return " ".join(
            [*self._pip("uninstall"), *([] if self.installer == "uv" else ["-y"]), *names]
        )

    def _pip(self, command: str) -> list[str]:
        if self.installer == "uv":
            return ["uv", "pip", command, "--python", self.executable]
        make = [] if self.installer else [self.executable, "-m", "ensurepip", "&&"]
        return [*make, self.executable, "-m", "pip", command]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 3, 1) of "2.3.1+cu121"; () if there is none."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def gather_facts(repository: Path, output: Path) -> Facts:
    """Look at everything; takes as long as importing Detectron2, and changes nothing.

    Args:
        repository: the folder of the project.
        output: folder that runs are going to be written to.
    """
    executable = _as_typed(sys.executable, "python", "python3")
    return Facts(
        python=tuple(sys.version_info[:3]),
        implementation=platform.python_implementation(),
        executable=executable,
        prefix=sys.prefix,
        installer=_installer(),
        repository=str(repository),
        installed=_installed(),
        origins=_origins(),
        attempts=attempt_all(_PROBES, NEEDS, timeout=_PROBE_SECONDS),
        machine=examine_machine(output),
        environment=dict(os.environ),
        datasets=_datasets(),
        tools_package=_tools_package(),
    )


def _as_typed(executable: str, *names: str) -> str:
    """Return the shortest way to call this interpreter from here."""
    for name in names:
        if shutil.which(name) == executable:
            return name
    relative = os.path.relpath(executable)
    return _quoted(executable if relative.startswith("..") else relative)


def _quoted(word: str) -> str:
    """Quote a word for a shell, with the marks that pip's own documentation takes."""
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else f'"{word}"'


def _installer() -> str:
    # Not importlib.util.find_spec: setuptools changes distutils where somebody asks for pip.
    if importlib.machinery.PathFinder.find_spec("pip") is not None:
        return "pip"
    # An environment that uv made has no pip.
    return "uv" if shutil.which("uv") else ""


def _installed() -> dict[str, tuple[Distribution, ...]]:
    installed: dict[str, list[Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            metadata = distribution.metadata
            name, version = metadata.get("Name"), metadata.get("Version")
        except (TypeError, ValueError):
            continue  # no metadata, or no text
        left_behind = getattr(getattr(distribution, "_path", None), "name", "").startswith("~")
        if not name or not version or left_behind:
            continue  # removed by halves
        folder = str(distribution.locate_file(""))
        origin = _origin(distribution)
        entry = Distribution(
            name,
            version,
            folder,
            editable=bool(origin.get("dir_info", {}).get("editable")),
            commit=str(origin.get("vcs_info", {}).get("commit_id", "")),
        )
        entries = installed.setdefault(re.sub(r"[-_.]+", "-", name).lower(), [])
        if entry not in entries:
            entries.append(entry)
    return {name: tuple(entries) for name, entries in installed.items()}


def _origin(distribution: importlib.metadata.Distribution) -> dict:
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


def _origins() -> dict[str, str]:
    origins = {}
    for module in DISTRIBUTIONS:
        # Not importlib.util.find_spec: the doctor has a package of its own called ocr_panoptic.
        for finder in sys.meta_path:
            try:
                spec = finder.find_spec(module, None)
            except ImportError:
                break  # refused
            if spec is not None:
                if spec.origin is not None:
                    origins[module] = spec.origin
                break
    return origins


def _datasets() -> tuple[str, ...]:
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    known = {
        "COCO panoptic": "coco/annotations/panoptic_train2017.json",
        "COCO panoptic val": "coco/annotations/panoptic_val2017.json",
        "easy Shapes": "shapes_easy/annotations/panoptic_train.json",
        "hard Shapes": "shapes_hard/annotations/panoptic_train.json",
    }
    return tuple(name for name, path in known.items() if os.path.isfile(root / path))


def _tools_package() -> str | None:
    """Find a package called "tools" as others would, without this project's own folder."""
    here = os.path.realpath(Path(__file__).parents[2])
    path = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("tools", path)
    return spec.origin if spec is not None else None
