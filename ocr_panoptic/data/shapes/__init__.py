"""Shapes: a synthetic COCO-panoptic data set in which some stuff can only be told by context."""

from .register import (
    register_all_shapes,
    register_shapes,
    register_shapes_instances,
    shapes_metadata,
)
from .writer import write_shapes

__all__ = [
    "register_all_shapes",
    "register_shapes",
    "register_shapes_instances",
    "shapes_metadata",
    "write_shapes",
]
