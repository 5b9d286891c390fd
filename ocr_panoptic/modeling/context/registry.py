"""The registry of context schemes, and how one of them is built."""

from __future__ import annotations

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import ContextLayer

__all__ = ["CONTEXT_REGISTRY", "NoRegionsError", "build_context"]

CONTEXT_REGISTRY = Registry("CONTEXT")
"""Name -> function that makes a :class:`~ocr_panoptic.layers.ContextLayer`.

It is called with a config node that has the keys of
:func:`ocr_panoptic.config.add_context_keys`, the channels of the input, those of the result, and
the number of classes (None in a backbone, which has none).
"""


class NoRegionsError(ValueError):
    """A scheme cannot be built without the number of classes, and there are none."""


def build_context(
    node: CfgNode,
    in_channels: int,
    key: str,
    *,
    out_channels: int | None = None,
    num_classes: int | None = None,
) -> ContextLayer:
    """Build the context layer that a config node names.

    Args:
        node: such as ``MODEL.RESNETS.CONTEXT``.
        in_channels: channels of its input.
        key: what an error calls the node.
        out_channels: channels of its result; None for those of the input.
        num_classes: K of the region logits; None where there are none.

    Raises:
        InputError: if NAME is not registered, the layer needs regions where there are none, or it
            cannot be built with these values.
    """
    known = sorted(name for name, _ in CONTEXT_REGISTRY)
    if node.NAME not in known:
        raise InputError(f"{key}.NAME: '{node.NAME}', expected one of {' '.join(known)}")
    layer = None
    try:
        layer = CONTEXT_REGISTRY.get(node.NAME)(
            node, in_channels, out_channels or in_channels, num_classes
        )
    except NoRegionsError:
        pass  # told below, as of schemes that can be built
    except ValueError as error:
        raise InputError(f"{key}: {node.NAME} on {in_channels} channels: {error}") from error
    if layer is None or (num_classes is None and (layer.uses_regions or layer.uses_ground_truth)):
        raise InputError(
            f"{key}.NAME: '{node.NAME}' needs regions of classes, expected a scheme without, or "
            "MODEL.SEM_SEG_HEAD.NAME ContextSemSegFPNHead with MODEL.SEM_SEG_HEAD.CONTEXT.NAME"
        )
    return layer
