"""Meta-architectures that tell the modules inside about the batch: its padding, its labels."""

from .batch import true_labels
from .padding import padding_mask
from .padding_aware import PaddingAwareGeneralizedRCNN, PaddingAwarePanopticFPN

__all__ = ["PaddingAwareGeneralizedRCNN", "PaddingAwarePanopticFPN", "padding_mask", "true_labels"]
