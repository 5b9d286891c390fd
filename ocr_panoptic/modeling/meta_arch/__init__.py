"""Meta-architectures that tell the modules inside which positions are padding."""

from .padding import padding_mask
from .padding_aware import PaddingAwareGeneralizedRCNN, PaddingAwarePanopticFPN

__all__ = ["PaddingAwareGeneralizedRCNN", "PaddingAwarePanopticFPN", "padding_mask"]
