"""Context layers by name, for backbones and heads."""

from . import multi_scale, regions, relational
from .registry import CONTEXT_REGISTRY, build_context

__all__ = ["CONTEXT_REGISTRY", "build_context", "multi_scale", "regions", "relational"]
