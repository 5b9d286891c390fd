"""What the tests share: one small Shapes data set, and the command lines as functions."""

import importlib.util
import logging
import multiprocessing
from pathlib import Path

import pytest
import torch
from detectron2.utils.logger import setup_logger

from ocr_panoptic.data.shapes.register import register_shapes, register_shapes_instances
from ocr_panoptic.data.shapes.writer import write_shapes

REPOSITORY = Path(__file__).parents[1]

needs_operators = pytest.mark.skipif(
    importlib.util.find_spec("detectron2._C") is None,
    reason="needs Detectron2's compiled operators",
)

# Two pytest processes share two cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory):
    """A $DETECTRON2_DATASETS with small Shapes in it.

    Registered as test_shapes_{train,val}_{separated,stuffonly} and, for instance segmentation, as
    test_shapes_{train,val}_instances.
    """
    root = tmp_path_factory.mktemp("datasets")
    write_shapes(root / "shapes_easy", train=8, val=5, size=96, seed=0, processes=1)
    for split in ("train", "val"):
        register_shapes(f"test_shapes_{split}", root / "shapes_easy", split, "easy")
        name = f"test_shapes_{split}_instances"
        register_shapes_instances(name, root / "shapes_easy", split, "easy")
    return root


@pytest.fixture
def children():
    """A function of no arguments: the processes that the test started and that still run."""
    # A data loader of another test may not have been collected yet.
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


@pytest.fixture(autouse=True)
def fresh_loggers():
    """Take away, after a test, the handlers that Detectron2 puts on its loggers in every run.

    They hold the test's captured stdout and its log file.
    """
    yield
    for name in ("detectron2", "fvcore", "ocr_panoptic"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
        logger.propagate = True
    setup_logger.cache_clear()


def load_tool(path):
    """Return a command line's module, by its path in the repository."""
    path = REPOSITORY / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
