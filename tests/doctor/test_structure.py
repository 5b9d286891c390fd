"""The doctor runs where nothing else does: what it may import."""

import ast
import subprocess
import sys

import pytest

from ocr_panoptic.doctor.probes import DISTRIBUTIONS

from ..conftest import REPOSITORY
from ..test_structure import imported

DOCTOR = REPOSITORY / "ocr_panoptic/doctor"
# These run in processes of their own, and import inside their functions.
IN_CHILDREN = ("probes.py", "self_test.py")


def without_functions(text):
    """Return a module's text without what its functions do."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def roots(path, tmp_path):
    text = path.read_text()
    copy = tmp_path / path.name
    copy.write_text(without_functions(text) if path.name in IN_CHILDREN else text)
    return {name.split(".")[0] for name in imported(copy) if not name.startswith(".")}


@pytest.mark.parametrize("path", sorted(DOCTOR.glob("*.py")), ids=lambda path: path.name)
def test_only_the_standard_library_is_imported(path, tmp_path):
    assert roots(path, tmp_path) <= {*sys.stdlib_module_names, "ocr_panoptic"}


@pytest.mark.parametrize("name", ["errors.py", "files.py"])
def test_what_the_doctor_takes_from_the_package_needs_nothing_either(name, tmp_path):
    assert roots(REPOSITORY / "ocr_panoptic" / name, tmp_path) <= sys.stdlib_module_names


def test_importing_the_tool_imports_nothing_that_it_examines():
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(REPOSITORY / 'tools/doctor.py')!r}, run_name='doctor')\n"
        f"print(sorted(set(sys.modules) & {set(DISTRIBUTIONS) - {'ocr_panoptic'}!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
