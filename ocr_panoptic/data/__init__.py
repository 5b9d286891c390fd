"""Data sets: registration, checks, the mapper. Importing this registers the built-in Shapes."""

import os

from .shapes.register import register_all_shapes

# Detectron2 registers its built-in data sets from the same variable, at import too.
register_all_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
