"""The context schemes that can be measured: those of CONTEXT_REGISTRY, and other forms of some."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from ocr_panoptic.config import add_context_keys
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import BaseOC, ContextLayer, PyramidOC
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY, build_context

from .published import FROM_RES5
from .textbook import ExplicitSelfAttention, StagewiseISA, TextbookISA, TextbookOCR

__all__ = ["FORMS", "Stage", "build_scheme", "registered_schemes", "scheme_of"]

# The width of the papers' complexity tables.
_WIDTH = 512
# Of Cityscapes, for which the tables were made, there are 19; of COCO, where OCR is used here, 54.
_NUM_CLASSES = 54


def _textbook_context(layer: BaseOC) -> BaseOC:
    layer.context = TextbookISA(layer.context)
    return layer


def _stagewise_contexts(layer: PyramidOC) -> PyramidOC:
    layer.contexts = nn.ModuleList(map(StagewiseISA, layer.contexts))
    return layer


FORMS: dict[str, tuple[str, Callable[[ContextLayer], nn.Module]]] = {
    "ocr_textbook": ("ocr", TextbookOCR),
    "isa_textbook": ("isa", TextbookISA),
    "sa": ("self_attention", lambda layer: layer),
    "sa_explicit": ("self_attention", ExplicitSelfAttention),
    "base_oc_isa_textbook": ("base_oc_isa", _textbook_context),
    "pyramid_oc_isa_textbook": ("pyramid_oc_isa", _stagewise_contexts),
}
"""Name on the command line -> registered scheme, and what makes its layer another form of it."""


def registered_schemes() -> list[str]:
    """Return the names in CONTEXT_REGISTRY."""
    return sorted(name for name, _ in CONTEXT_REGISTRY)


def scheme_of(name: str) -> str:
    """Return the registered scheme that a name stands for, which may be a form of it.

    Raises:
        InputError: for an unknown name.
    """
    scheme = FORMS[name][0] if name in FORMS else name
    known = registered_schemes()
    if scheme not in known:
        raise InputError(
            f"--names {name}: unknown, expected some of {' '.join(sorted({*known, *FORMS}))}"
        )
    return scheme


class Stage(nn.Module):
    """What the complexity tables count: the context, and what brings res5 to its width.

    That is a 3x3 convolution, norm and ReLU, where the input has another width than the context
    and the scheme does not take res5 itself.
    """

    def __init__(self, in_channels: int, context: nn.Module, width: int) -> None:
        """Put ``context``, which takes ``width`` channels, behind ``in_channels``."""
        super().__init__()
        self.transform = (
            nn.Identity()
            if in_channels == width
            else Conv2d(
                in_channels,
                width,
                kernel_size=3,
                padding=1,
                bias=False,
                norm=get_norm("BN", width),
                activation=F.relu,
            )
        )
        self.context = context

    def forward(self, feats: Tensor, region_logits: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W), and (N, K, H, W) where there are regions, to the context's result."""
        return self.context(self.transform(feats), region_logits=region_logits)


def build_scheme(
    name: str, in_channels: int, num_classes: int | None = None
) -> tuple[Stage, int | None]:
    """Build a scheme as the complexity tables measure it, with the default keys of a config.

    Args:
        name: of a registered scheme, or of a form of one.
        in_channels: channels of the input.
        num_classes: K of the region logits; None for COCO's 54.

    Returns:
        The stage, and K where it takes regions or true labels, else None.

    Raises:
        InputError: for an unknown name, or channels that the scheme cannot be built with.
    """
    scheme = scheme_of(name)
    node = CfgNode()
    add_context_keys(node)
    node.NAME, node.NORM = scheme, "BN"
    width = in_channels if scheme in FROM_RES5 else _WIDTH
    num_classes = num_classes or _NUM_CLASSES
    layer = build_context(
        node,
        width,
        f"--names {name}",
        out_channels=FROM_RES5.get(scheme, _WIDTH),
        num_classes=num_classes,
    )
    takes_regions = layer.uses_regions or layer.uses_ground_truth
    if name in FORMS:
        layer = FORMS[name][1](layer)
    return Stage(in_channels, layer, width), num_classes if takes_regions else None
