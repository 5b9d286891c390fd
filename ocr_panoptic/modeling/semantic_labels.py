"""From the coarse prediction of a semantic head to labels, never holding all logits at full size.

Detectron2 enlarges K logit maps to the padded image, cuts the image out, resizes that to the
output, and takes the argmax. Here the same is done part by part, with the same labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from .sem_seg.refining_head import RefiningSemSegFPNHead

__all__ = ["CoarseHead", "semantic_labels", "semantic_logits"]

# Numbers of a part: a strip of 4 MB in float32 stays in a processor's cache.
_STRIP = 2**20
# Classes of a part: as many as two vectors of AVX2 or one of AVX-512 hold.
_CLASSES = 16


class CoarseHead(nn.Module):
    """A semantic head that gives its prediction before it is enlarged.

    In inference only. It takes the place of the head in a model, whose other parts see the same
    attributes.
    """

    def __init__(self, head: nn.Module) -> None:
        """Wrap ``head``; one that is no SemSegFPNHead gives its prediction as it does."""
        super().__init__()
        self.head = head
        self.uses_ground_truth = getattr(head, "uses_ground_truth", False)
        self.ignore_value = getattr(head, "ignore_value", 255)
        self.stride = 1
        # A subclass with a forward of its own does something else with its layers.
        if type(head).forward is RefiningSemSegFPNHead.forward:
            self.stride = head.refined_stride
        elif type(head).forward is SemSegFPNHead.forward:
            self.stride = head.common_stride

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (N, K, H, W) at ``stride`` pixels of the padded image per cell, and {}.

        Args:
            features: as the head's own.
            targets: not used.
        """
        if self.stride == 1:
            return self.head(features, None)[0], {}
        logits = self.head.layers(features)
        return logits[1] if isinstance(logits, tuple) else logits, {}


def semantic_logits(
    logits: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Return all logits of an image at the size of the output, as Detectron2 does.

    Args:
        logits: (K, H, W) of one image, floating point.
        stride: pixels of the padded image per cell, along each axis.
        image_size: (height, width) of the image without padding.
        output_size: (height, width) of the result.

    Returns:
        (K, *output_size).
    """
    return _at_full_size(logits.unsqueeze(0), stride, image_size, output_size)[0]


def semantic_labels(
    logits: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Return the argmax of :func:`semantic_logits` over the classes, without these logits.

    Where the output has the image's size, which is not resized then, rows are taken a few at a
    time; elsewhere classes are. Channels are side by side in memory, where torch enlarges and
    compares several times as fast. The labels are those of the whole map in this memory format.
    In the other format its logits may differ in their last bit, and with them the label of a
    pixel whose two highest logits do not differ by more.

    Args:
        logits: as for :func:`semantic_logits`; finite.
        stride: as there.
        image_size: as there.
        output_size: as there.

    Returns:
        (height, width) int64; of equal logits the first class.
    """
    logits = logits.unsqueeze(0).contiguous(memory_format=torch.channels_last)
    if image_size == output_size and stride & (stride - 1) == 0:
        return _labels_by_rows(logits, stride, *image_size)
    return _labels_by_classes(logits, stride, image_size, output_size)


def _labels_by_rows(logits: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Enlarge some rows of cells at a time.

    With one row more above and below: a pixel's value comes from the two rows of cells around
    its middle. ``stride`` is a power of 2, so positions are exact wherever counting starts.
    """
    cells = logits.shape[2]
    step = max(1, _STRIP // (logits.shape[1] * stride**2 * logits.shape[3]))
    labels = []
    for start in range(0, -(-height // stride), step):
        first, last = max(start - 1, 0), min(start + step + 1, cells)
        strip = _enlarge(logits[:, :, first:last], stride)
        top = (start - first) * stride
        bottom = top + min(step * stride, height - start * stride)
        labels.append(strip[0, :, top:bottom, :width].max(dim=0).indices)
    return torch.cat(labels)


def _labels_by_classes(
    logits: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Enlarge and resize some classes at a time."""
    best = labels = None
    for first in range(0, logits.shape[1], _CLASSES):
        part = logits[:, first : first + _CLASSES].contiguous(memory_format=torch.channels_last)
        part = _at_full_size(part, stride, image_size, output_size)
        highest, index = part[0].max(dim=0)
        if best is None:
            best, labels = highest, index
        else:
            labels = torch.where(highest > best, index + first, labels)
            best = torch.maximum(best, highest)
    return labels


def _at_full_size(
    logits: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    height, width = image_size
    logits = _enlarge(logits, stride)[:, :, :height, :width]
    return F.interpolate(logits, size=output_size, mode="bilinear", align_corners=False)


def _enlarge(logits: Tensor, stride: int) -> Tensor:
    if stride == 1:
        return logits
    return F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
