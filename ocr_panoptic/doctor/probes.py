"""Import and use, a little, each thing that the project needs; in a process that may die of it.

Called by :mod:`.child`. Each probe imports what it is about, uses it where an import alone does not
show what is broken, and returns what it found, as json can hold it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import inspect
import os
import warnings
from collections.abc import Callable
from types import ModuleType

__all__ = ["DISTRIBUTIONS", "NEEDS", "attempt"]

DISTRIBUTIONS = {
    "pkg_resources": "setuptools",
    "numpy": "numpy",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "tabulate": "tabulate",
    "tqdm": "tqdm",
    "portalocker": "portalocker",
    "iopath": "iopath",
    "cv2": "opencv-python",
    "matplotlib": "matplotlib",
    "shapely": "shapely",
    "pycocotools": "pycocotools",
    "panopticapi": "panopticapi-lite",
    "hotcoco": "hotcoco",
    "torch": "torch",
    "torchvision": "torchvision",
    "fvcore": "fvcore",
    "tensorboard": "tensorboard",
    "detectron2": "sal-detectron2",
    "ocr_panoptic": "ocr-panoptic",
}
"""Module -> what pip calls that which installs it."""

NEEDS: dict[str, tuple[str, ...]] = {
    "pkg_resources": (),
    "numpy": (),
    "PIL": (),
    "yaml": (),
    "jinja2": (),
    "tabulate": (),
    "tqdm": (),
    "portalocker": (),
    "iopath": (),
    "cv2": ("numpy",),
    "matplotlib": ("numpy", "PIL"),
    "shapely": ("numpy",),
    "pycocotools": ("numpy",),
    "panopticapi": ("numpy", "PIL"),
    "hotcoco": ("numpy",),
    "cuda-driver": (),
    "torch": (),
    "torch-numpy": ("torch", "numpy"),
    "torch-cuda": ("torch",),
    "torchvision": ("torch", "numpy", "PIL"),
    "fvcore": ("torch", "numpy", "tabulate", "yaml", "iopath"),
    "tensorboard": ("torch", "numpy"),
    "detectron2": (
        *("torch", "torch-numpy", "torchvision", "fvcore", "iopath", "PIL", "cv2", "matplotlib"),
        *("pycocotools", "tabulate", "tqdm", "yaml"),
    ),
    "detectron2._C": ("torch", "detectron2"),
    "detectron2.model_zoo": ("detectron2",),
    "ocr_panoptic": ("detectron2", "shapely", "panopticapi", "jinja2"),
}
"""Probe -> those without which it cannot go well; in the order in which they are made."""


def attempt(name: str) -> dict:
    """Make the probe ``name`` of :data:`NEEDS`; returns what it found.

    Raises:
        BaseException: whatever the import or the use raises.
    """
    if name in _PROBES:
        return _PROBES[name]()
    return _identity(importlib.import_module(name))


def _identity(module: ModuleType) -> dict:
    return {
        "version": str(getattr(module, "__version__", "")),
        "file": getattr(module, "__file__", None),
    }


def _import_all(*names: str) -> dict:
    for name in names:
        module = importlib.import_module(name)
    return _identity(importlib.import_module(module.__name__.split(".")[0]))


def _pillow() -> dict:
    return _import_all("PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")


def _iopath() -> dict:
    return _import_all("iopath.common.file_io")


def _fvcore() -> dict:
    return _import_all("fvcore.common.checkpoint", "fvcore.nn")


def _opencv() -> dict:
    import cv2
    import numpy as np

    cv2.resize(np.zeros((2, 2, 3), np.uint8), (4, 4))
    return _identity(cv2)


def _pycocotools() -> dict:
    import numpy as np
    import pycocotools
    from pycocotools import cocoeval, mask  # noqa: F401

    # Compiled against another numpy, it may fail only here.
    mask.decode(mask.encode(np.ones((2, 2), np.uint8, order="F")))
    return _identity(pycocotools)


def _panopticapi() -> dict:
    return _import_all("panopticapi.utils", "panopticapi.evaluation")


def _cuda_driver() -> dict:
    """Ask NVIDIA's driver itself for the CUDA that it can run: 12040 is 12.4, None no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"cuda": None}
    version = ctypes.c_int(0)
    status = driver.cuDriverGetVersion(ctypes.byref(version))
    return {"cuda": version.value or None, "status": status}


def _torch() -> dict:
    import torch

    # What an import alone does not show: that it computes and goes back.
    weight = torch.ones(2, 2, requires_grad=True)
    (weight @ weight).sum().backward()
    return {
        **_identity(torch),
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
    }


def _torch_numpy() -> dict:
    import numpy as np
    import torch

    array = np.ones(2, np.float32)
    return {"sum": float(torch.from_numpy(array).numpy().sum())}


def _torch_cuda() -> dict:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        count = torch.cuda.device_count() if available else 0
        devices = [_gpu(number) for number in range(count)]
    return {
        "available": available,
        "architectures": torch.cuda.get_arch_list() if available else [],
        "devices": devices,
        "warnings": sorted({str(warning.message).splitlines()[0] for warning in caught}),
    }


def _gpu(number: int) -> dict:
    """Return what a GPU is, and the error of a small convolution and its gradient on it."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    device = torch.device("cuda", number)
    error = ""
    try:
        weight = torch.ones(1, 3, 3, 3, device=device, requires_grad=True)
        torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8, device=device), weight).sum().backward()
        torch.cuda.synchronize(device)
        free = torch.cuda.mem_get_info(device)[0]
    except Exception as raised:
        # Every device is told of, whatever ails this one.
        lines = str(raised).strip().splitlines() or ["no message"]
        error, free = f"{type(raised).__name__}: {lines[0]}", None
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "free": free,
        "capability": [properties.major, properties.minor],
        "error": error,
    }


def _torchvision() -> dict:
    import torch
    import torchvision

    # Built for another torch, it has no operators; its import says so in some versions only.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)
    torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [boxes], 2)
    return _identity(torchvision)


def _tensorboard() -> dict:
    import tensorboard
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    return _identity(tensorboard)


def _detectron2() -> dict:
    found = _import_all(
        *("detectron2", "detectron2.config", "detectron2.layers", "detectron2.data"),
        *("detectron2.data.transforms", "detectron2.modeling", "detectron2.checkpoint"),
        *("detectron2.evaluation", "detectron2.engine", "detectron2.utils.visualizer"),
    )
    build = importlib.import_module("detectron2.data.build")
    source = inspect.getsource(build._train_loader_from_config)
    return {**found, "seeded_sampler": "seed=cfg.SEED" in source}


def _operators() -> dict:
    import detectron2
    import torch  # noqa: F401 - loads the libraries that the operators are linked to

    folder = os.path.dirname(detectron2.__file__)
    files = sorted(name for name in os.listdir(folder) if name.startswith("_C."))
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    if not any(name == f"_C{suffix}" for name in files for suffix in suffixes):
        return {"present": False, "files": files}
    operators = importlib.import_module("detectron2._C")
    return {
        "present": True,
        "files": files,
        "compiler": operators.get_compiler_version(),
        "cuda": operators.get_cuda_version(),
    }


def _model_zoo() -> dict:
    from detectron2 import model_zoo

    model_zoo.get_config_file("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml")
    return {}


def _ocr_panoptic() -> dict:
    return _import_all(
        *("ocr_panoptic.engine.launch", "ocr_panoptic.engine.predict", "ocr_panoptic.convert"),
        *("ocr_panoptic.visualization.report", "ocr_panoptic.benchmark.context"),
    )


_PROBES: dict[str, Callable[[], dict]] = {
    "PIL": _pillow,
    "iopath": _iopath,
    "cv2": _opencv,
    "pycocotools": _pycocotools,
    "panopticapi": _panopticapi,
    "cuda-driver": _cuda_driver,
    "torch": _torch,
    "torch-numpy": _torch_numpy,
    "torch-cuda": _torch_cuda,
    "torchvision": _torchvision,
    "fvcore": _fvcore,
    "tensorboard": _tensorboard,
    "detectron2": _detectron2,
    "detectron2._C": _operators,
    "detectron2.model_zoo": _model_zoo,
    "ocr_panoptic": _ocr_panoptic,
}
