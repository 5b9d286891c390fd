"""Object-contextual representations and interlaced self-attention for Detectron2.

Importing the package registers its models and data sets with Detectron2.
"""

from . import data, modeling
from .config import add_ocr_panoptic_config

__all__ = ["add_ocr_panoptic_config"]
