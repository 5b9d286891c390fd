"""Backbones that Detectron2 builds by name."""

from .context_resnet import ResidualContext, build_context_resnet_fpn_backbone

__all__ = ["ResidualContext", "build_context_resnet_fpn_backbone"]
