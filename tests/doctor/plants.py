"""Folders for PYTHONPATH in which something is wrong."""

import os
import subprocess
import sys

from ..conftest import REPOSITORY

# Python imports it at its start, wherever it is on the path.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
SEGFAULT = "import ctypes\nctypes.string_at(0)\n"


def absent(folder, *names):
    """Let modules not be found, as if they were not installed."""
    return module(folder, "sitecustomize", ABSENT.format(names=set(names)))


def module(folder, name, source, package=False):
    """Put a module, or a package, in front of the installed one."""
    path = folder / name / "__init__.py" if package else folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return folder


def distribution(folder, name, version):
    """Let pip believe that something is installed."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def environment(folder, **more):
    """Return the environment of a process that has ``folder`` in front of Python's path."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **more}


def run_doctor(folder, *arguments, **more):
    """Run the command line with ``folder`` in front of Python's path."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools/doctor.py"), "--no-self-test", *arguments],
        env=environment(folder, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
