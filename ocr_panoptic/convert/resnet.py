"""ResNets of torchvision and timm, and Detectron2's.

All three compute the same where Detectron2's stride is in the 3x3 convolution
(MODEL.RESNETS.STRIDE_IN_1X1 False) and the input is what torchvision takes. Detectron2's frozen
BatchNorm has the same four tensors; the counter of batches is kept, so that the way back gives the
same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import Tensor

from .conversion import COUNTER, Conversion, size_of
from .units import find_prefix

__all__ = ["from_detectron2", "to_detectron2"]

_ANCHOR = "stem.conv1.weight"
# Depth -> blocks of res2 to res5, whether they are bottlenecks.
_DEPTHS = {
    18: ([2, 2, 2, 2], False),
    34: ([3, 4, 6, 3], False),
    50: ([3, 4, 6, 3], True),
    101: ([3, 4, 23, 3], True),
    152: ([3, 8, 36, 3], True),
}
# Names there and here; stages are counted from 1 there, from 2 here.
_NAMES = (
    ("conv1.weight", "stem.conv1.weight"),
    ("bn1.{part}", "stem.conv1.norm.{part}"),
    ("layer{stage}.{block}.conv{conv}.weight", "res{stage}.{block}.conv{conv}.weight"),
    ("layer{stage}.{block}.bn{conv}.{part}", "res{stage}.{block}.conv{conv}.norm.{part}"),
    ("layer{stage}.{block}.downsample.0.weight", "res{stage}.{block}.shortcut.weight"),
    ("layer{stage}.{block}.downsample.1.{part}", "res{stage}.{block}.shortcut.norm.{part}"),
    ("fc.{part}", "linear.{part}"),
)
_FIELDS = {"stage": r"\d", "block": r"\d+", "conv": r"\d", "part": r"\w+"}
# What torchvision's ResNets see: RGB, in the units of Detectron2, whose images go up to 255.
_INPUT = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def to_detectron2(conversion: Conversion, *, timm: bool) -> None:
    """Make a ResNet of Detectron2 of one of torchvision or timm.

    Args:
        conversion: its result is filled.
        timm: whether it is timm's, whose variants are told by name.

    Raises:
        InputError: the file is no such ResNet.
    """
    if timm:
        _refuse_variants(conversion)
    for name in conversion.weights:
        own = _to_own(name)
        if own is None:
            conversion.refuse(f"{name} is nothing that a ResNet has")
        conversion.rename(name, own)
    conversion.config.update(_check(conversion, conversion.output), **_INPUT)
    conversion.notes.append(
        "Detectron2's own defaults are others: BGR, PIXEL_STD 1, and STRIDE_IN_1X1 True"
    )
    if timm:
        conversion.notes.append(
            "PIXEL_MEAN and PIXEL_STD are those of most of timm's ResNets, its default_cfg has "
            "this one's, there from 0 to 1"
        )


def from_detectron2(conversion: Conversion) -> None:
    """Make a ResNet of torchvision, or timm, of Detectron2's, alone or in a whole model.

    Raises:
        InputError: the file holds no such ResNet.
    """
    prefix = find_prefix(conversion, _ANCHOR)
    if prefix is None:
        conversion.refuse(f"it has no {_ANCHOR}")
    inner = {}
    for name, tensor in conversion.weights.items():
        own = name.removeprefix(prefix)
        if not name.startswith(prefix):
            conversion.left_out[name] = "no part of the ResNet"
            continue
        foreign = _to_foreign(own)
        if foreign is None and ".context." in own:
            conversion.warn_inexact(f"{name} is of a context block, which ResNets elsewhere lack")
            conversion.left_out[name] = "of a context block"
            continue
        if foreign is None:
            conversion.refuse(f"{name} is nothing that a ResNet has")
        inner[own] = tensor
        conversion.rename(name, foreign)
    config = _check(conversion, inner)
    if "linear.weight" not in inner:
        conversion.missing["fc.*"] = "a detector has no classifier"
    if "MODEL.RESNETS.STRIDE_IN_1X1" in config:
        conversion.notes.append(
            "it computes the same only if it was trained with MODEL.RESNETS.STRIDE_IN_1X1 False, "
            "which the file does not tell; that of Detectron2's R-50 and R-101 of MSRA is True"
        )
    conversion.notes.append(
        "its input is that of INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD of its training"
    )


def _to_own(name: str) -> str | None:
    """Return Detectron2's name of a tensor, None for no part of a ResNet."""
    return _translate(name, _NAMES, shift=1)


def _to_foreign(name: str) -> str | None:
    """Return torchvision's name of a tensor, None for no part of a ResNet."""
    return _translate(name, [(own, foreign) for foreign, own in _NAMES], shift=-1)


def _translate(name: str, names: Iterable[tuple[str, str]], shift: int) -> str | None:
    for template, other in names:
        pattern = re.escape(template)
        for field, digits in _FIELDS.items():
            pattern = pattern.replace(f"\\{{{field}\\}}", f"(?P<{field}>{digits})")
        if found := re.fullmatch(pattern, name, re.ASCII):
            fields = found.groupdict()
            if "stage" in fields:
                fields["stage"] = str(int(fields["stage"]) + shift)
            return other.format(**fields)
    return None


def _refuse_variants(conversion: Conversion) -> None:
    for name in conversion.weights:
        for pattern, what in (
            (r"conv1\.0\.weight", "a deep stem, a 'd' variant; Detectron2's is one convolution"),
            (r".*\.downsample\.2\.\w+", "average pooling in its shortcuts, a 'd' variant"),
            (r".*\.se\..*", "squeeze and excitation"),
            (r".*\.aa\..*", "anti-aliasing"),
        ):
            if re.fullmatch(pattern, name):
                conversion.refuse(
                    f"{name} is of a ResNet with {what}; expected a plain one, such as resnet50"
                )


def _check(conversion: Conversion, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """See that tensors, by Detectron2's names, are a ResNet that it builds; return its config."""
    blocks = [
        sum(f"res{stage}.{index}.conv1.weight" in tensors for index in range(len(tensors)))
        for stage in (2, 3, 4, 5)
    ]
    bottleneck = "res2.0.conv3.weight" in tensors
    depth = next((d for d, kind in _DEPTHS.items() if kind == (blocks, bottleneck)), None)
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        conversion.refuse(
            f"{blocks} {kind} blocks, expected a ResNet of depth {', '.join(map(str, _DEPTHS))}"
        )
    config: dict[str, object] = {"MODEL.RESNETS.DEPTH": depth}
    if bottleneck:
        config["MODEL.RESNETS.STRIDE_IN_1X1"] = False
        config.update(_groups(tensors))
    else:
        config["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    cfg = get_cfg()
    cfg.merge_from_list([part for item in config.items() for part in item])
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        expected = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    conversion.require(tensors, expected)
    known = {*expected, "linear.weight", "linear.bias"}
    for name in tensors:
        norm = f"{name.removesuffix(COUNTER)}weight"
        if name not in known and not (name.endswith(f".norm.{COUNTER}") and norm in known):
            conversion.refuse(f"{name} is nothing that a ResNet-{depth} has")
    classifier = tensors.get("linear.weight")
    features = expected["res5.0.shortcut.weight"].shape[0]
    if classifier is not None and (classifier.dim() != 2 or classifier.shape[1] != features):
        conversion.refuse(f"its classifier is {size_of(classifier)}, expected {features} columns")
    return config


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Return what differs from a plain ResNet in the 3x3 convolutions, as in ResNeXt."""
    kernel = tensors.get("res2.0.conv2.weight")
    if kernel is None or kernel.dim() != 4 or not kernel.shape[1] or kernel.shape[:2] == (64, 64):
        return {}
    groups = max(1, kernel.shape[0] // kernel.shape[1])
    return {
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": max(1, kernel.shape[0] // groups),
    }
