"""Data sets: registration, checks, the mapper. Importing this registers the built-in ones."""

import os

from .register import register_coco_panoptic
from .shapes.register import register_all_shapes
from .test_dev import register_all_test_images

__all__ = ["register_coco_panoptic"]

# Detectron2 registers its built-in data sets from the same variable, at import too.
_root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
register_all_shapes(_root)
register_all_test_images(_root)
