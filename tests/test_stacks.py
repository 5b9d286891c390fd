"""What the stacks do not have in common: the package needs none of it."""

import json
import os
import subprocess
import sys

import pytest

from .conftest import REPOSITORY
from .models import SMALL, SMALLEST, TINY

# Modules that are None are not found: as without compiled operators and from setuptools 82 on.
PROGRAM = """
import sys

sys.modules.update({{"detectron2._C": None, "pkg_resources": None}})
{rest}
"""
IMPORTS = """
import importlib
import pkgutil

import ocr_panoptic

modules = [module.name for module in pkgutil.walk_packages(ocr_panoptic.__path__, "ocr_panoptic.")]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(modules), "detectron2.model_zoo" in sys.modules)
"""
TRAINS = """
import runpy

sys.exit(runpy.run_path("tools/train_net.py")["main"](sys.argv[1:]))
"""


def run(program, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(rest=program), *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_module_imports_without_operators_and_pkg_resources():
    count, has_model_zoo = run(IMPORTS).split()[-2:]
    assert int(count) > 100
    assert has_model_zoo == "False"


@pytest.mark.slow
def test_trains_and_evaluates_without_operators_and_pkg_resources(datasets_root, tmp_path):
    settings = {
        **dict(zip(SMALL[::2], SMALL[1::2], strict=True)),
        **SMALLEST,
        **{"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), "OUTPUT_DIR": tmp_path},
    }
    words = [word for pair in settings.items() for word in pair]
    run(TRAINS, "--config-file", TINY["ocr"], *words, DETECTRON2_DATASETS=str(datasets_root))
    assert (tmp_path / "model_final.pth").is_file()
    (metrics,) = tmp_path.glob("inference/*/metrics.json")
    assert {"PQ", "mask_AP", "mIoU"} <= set(json.loads(metrics.read_text()))
