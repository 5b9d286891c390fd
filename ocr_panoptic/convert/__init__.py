"""Checkpoints of other projects to ours, and back."""

from .command import convert_file
from .formats import FORMATS, Options, check_formats, convert_checkpoint
from .report import as_json, as_text

__all__ = [
    "FORMATS",
    "Options",
    "as_json",
    "as_text",
    "check_formats",
    "convert_checkpoint",
    "convert_file",
]
