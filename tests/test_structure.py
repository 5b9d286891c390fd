"""The rules of the house that a test can enforce."""

import ast

import pytest

from .conftest import REPOSITORY

PACKAGE = REPOSITORY / "ocr_panoptic"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = sorted((PACKAGE / "layers").glob("*.py"))
TOOLS = sorted((REPOSITORY / "tools").glob("*.py"))


def imported(path):
    """Return the absolute names of what a module imports; siblings start with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.name)
def test_layers_know_no_config_and_no_registry(path):
    allowed = ("torch", "detectron2.layers", "fvcore.nn.weight_init", ".")
    allowed += ("__future__", "collections.abc", "math", "typing")
    assert all(name.startswith(allowed) for name in imported(path)), imported(path)
    assert "cfg" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_tools_parse_call_the_package_and_print(path):
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(path.read_text().splitlines()) <= 100
    # Every tool answers mistakes the same way.
    assert "@command_line" in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_package_does_not_import_the_tools(path):
    # Detectron2's wheel installs a package called "tools" too.
    assert not any(name.split(".")[0] in ("tools", "tests", "datasets") for name in imported(path))
