"""Models to measure without data: built from configs, with weights, images and labels drawn."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor, nn

from ocr_panoptic.engine.build import built_from_config
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.prediction import check_prediction
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import InputError
from ocr_panoptic.known_warnings import silence_known_warnings

__all__ = ["draw_inputs", "our_model", "settle", "stock_config", "stock_model"]

# What decides how many boxes and instances there are: the same on both sides of a comparison.
_COUNTS = (
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.RPN.NMS_THRESH"),
    *("MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH"),
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
)
# An attribute of a Panoptic-FPN: the score from which an instance joins its panoptic map.
_LEAST_SCORE = "combine_instances_score_thresh"
# Boxes that stay in front of non-maximum suppression, for each that is wanted behind it.
_CANDIDATES = 10
# Corners of a drawn instance's outline.
_CORNERS = 16
_BLOCK = 80


def our_model(config_file: str, overrides: list[str], device: str) -> tuple[CfgNode, nn.Module]:
    """Build the model of a config, in evaluation mode, without its data.

    Args:
        config_file: path to a yaml config.
        overrides: keys and values in turn. Without MODEL.WEIGHTS among them weights are random,
            the same in every run: those that a config names are what it begins to train from.
        device: "cpu" or "cuda".

    Returns:
        The config, with MODEL.WEIGHTS "" where they are random, and the model.

    Raises:
        InputError: for a config or weights that cannot be used, or an architecture of other parts.
    """
    cfg = load_config(config_file, overrides)
    cfg.MODEL.DEVICE = device
    if "MODEL.WEIGHTS" not in overrides[::2]:
        cfg.MODEL.WEIGHTS = ""
    with tempfile.TemporaryDirectory() as folder:
        check_prediction(cfg, Path(folder))
    if "PanopticFPN" in cfg.MODEL.META_ARCHITECTURE and not cfg.MODEL.MASK_ON:
        raise InputError("MODEL.MASK_ON: False, expected True, as a panoptic map is made of masks")
    model = _build(cfg)
    if not isinstance(model, GeneralizedRCNN):
        raise InputError(
            f"MODEL.META_ARCHITECTURE: '{cfg.MODEL.META_ARCHITECTURE}', expected one with the "
            "parts of a GeneralizedRCNN, such as PaddingAwarePanopticFPN"
        )
    if cfg.MODEL.WEIGHTS:
        Checkpointer.of_config(cfg, model, complete=True).load(cfg.MODEL.WEIGHTS)
    return cfg, model


def stock_config(cfg: CfgNode) -> str:
    """Return the path of Detectron2's own config that a config is compared with.

    Raises:
        InputError: if Detectron2 has none of that depth.
    """
    depth = cfg.MODEL.RESNETS.DEPTH
    name = (
        f"COCO-PanopticSegmentation/panoptic_fpn_R_{depth}_3x.yaml"
        if "PanopticFPN" in cfg.MODEL.META_ARCHITECTURE
        else f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_3x.yaml"
    )
    # By path: detectron2.model_zoo needs pkg_resources, which setuptools 82 has no more.
    path = Path(detectron2.__file__).parent / "model_zoo/configs" / name
    if not path.is_file():
        raise InputError(
            f"--against stock: MODEL.RESNETS.DEPTH {depth}, but Detectron2 has no {name}, expected "
            "a config of depth 50 or 101"
        )
    return str(path)


def stock_model(config_file: str, cfg: CfgNode, ours: nn.Module) -> nn.Module:
    """Build a model of Detectron2 as it comes, with the weights of ours where it has such keys.

    Args:
        config_file: Detectron2's.
        cfg: of ours; what decides on the number of instances is taken over.
        ours: the model whose weights are shared.

    Returns:
        The model, in evaluation mode.
    """
    stock = get_cfg()
    stock.merge_from_file(config_file)
    stock.MODEL.DEVICE = cfg.MODEL.DEVICE
    for key in _COUNTS:
        *path, last = key.split(".")
        source, target = cfg, stock
        for part in path:
            source, target = source[part], target[part]
        target[last] = source[last]
    model = _build(stock)
    given = ours.state_dict()
    shared = {
        key: given[key]
        for key, value in model.state_dict().items()
        if key in given and given[key].shape == value.shape
    }
    model.load_state_dict(shared, strict=False)
    # Of a cascade the last one decides.
    for decides in _predictors(ours)[-1:]:
        for predictor in _predictors(model):
            _let_through(predictor, decides.test_score_thresh, decides.test_topk_per_image)
    if hasattr(ours, _LEAST_SCORE):
        setattr(model, _LEAST_SCORE, getattr(ours, _LEAST_SCORE))
    return model


def _build(cfg: CfgNode) -> nn.Module:
    silence_known_warnings()
    torch.manual_seed(0)
    with built_from_config():
        return build_model(cfg).eval()


@torch.no_grad()
def settle(model: nn.Module, inputs: list[dict[str, Any]], instances: int) -> None:
    """Make random weights do the work of trained ones: as many boxes, and some instances.

    Random convolutions one behind the other give numbers in the thousands. All proposals are then
    alike, and next to none is left behind non-maximum suppression. The outputs of the FPN are
    scaled to those of a trained one, and so many of the highest scores taken for sure that about
    ``instances`` detections are left, all of which join the panoptic map.

    Args:
        model: in evaluation mode, with random weights; changed in place. Without an FPN, or
            Detectron2's box predictor, it is left as it is.
        inputs: of which it has to find instances.
        instances: in each image.
    """
    maps = model.backbone(model.preprocess_image(inputs).tensor)
    spread = max(feats.float().std().item() for feats in maps.values())
    for name, layer in model.backbone.named_modules():
        if name.startswith("fpn_output") and isinstance(layer, nn.Conv2d):
            layer.weight /= spread
            if layer.bias is not None:
                layer.bias /= spread
    for predictor in _predictors(model):
        found: list[Tensor] = []
        predictor.inference = _watch(predictor, found)
        try:
            model(inputs)
        finally:
            del predictor.inference
        if found:
            scores = torch.cat(found)[:, :-1].flatten()
            wanted = min(_CANDIDATES * instances * len(inputs), len(scores))
            _let_through(predictor, scores.topk(wanted).values[-1].item(), instances)
    if hasattr(model, _LEAST_SCORE):
        setattr(model, _LEAST_SCORE, 0.0)


def _let_through(predictor: FastRCNNOutputLayers, threshold: float, count: int) -> None:
    predictor.test_score_thresh, predictor.test_topk_per_image = threshold, count


def _predictors(model: nn.Module) -> list[FastRCNNOutputLayers]:
    return [layer for layer in model.modules() if isinstance(layer, FastRCNNOutputLayers)]


def _watch(predictor: FastRCNNOutputLayers, found: list[Tensor]):
    def inference(predictions, proposals):
        found.extend(predictor.predict_probs(predictions, proposals))
        return type(predictor).inference(predictor, predictions, proposals)

    return inference


def draw_inputs(
    cfg: CfgNode, size: tuple[int, int], batch: int, instances: int
) -> list[dict[str, Any]]:
    """Draw images and what a training needs of them, in Detectron2's form, the same each time.

    Args:
        cfg: decides on numbers of classes, and on the form of masks.
        size: (height, width) of all images.
        batch: how many.
        instances: of each, ellipses.
    """
    generator = torch.Generator().manual_seed(0)
    return [_draw_input(cfg, size, instances, generator) for _ in range(batch)]


def _draw_input(
    cfg: CfgNode, size: tuple[int, int], count: int, generator: torch.Generator
) -> dict[str, Any]:
    height, width = size
    image = torch.randint(256, (3, height, width), generator=generator).float()
    blocks = height // _BLOCK + 1, width // _BLOCK + 1
    labels = torch.randint(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, blocks, generator=generator)
    labels = labels.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)[:height, :width]
    # From a twentieth to a half of the image's sides, inside of it.
    radius = (0.025 + 0.225 * torch.rand(count, 2, generator=generator)) * torch.tensor(size)
    center = radius + torch.rand(count, 2, generator=generator) * (torch.tensor(size) - 2 * radius)
    angle = torch.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    rows = center[:, :1] + radius[:, :1] * angle.sin()
    columns = center[:, 1:] + radius[:, 1:] * angle.cos()
    outlines = [
        [outline.flatten().double().numpy()] for outline in torch.stack([columns, rows], dim=2)
    ]
    instances = Instances(size)
    instances.gt_boxes = Boxes(
        torch.cat([(center - radius).flip(1), (center + radius).flip(1)], dim=1)
    )
    classes = torch.randint(cfg.MODEL.ROI_HEADS.NUM_CLASSES, (count,), generator=generator)
    instances.gt_classes = classes
    instances.gt_masks = (
        PolygonMasks(outlines)
        if cfg.INPUT.MASK_FORMAT == "polygon"
        else BitMasks.from_polygon_masks(PolygonMasks(outlines), height, width)
    )
    return {
        "image": image,
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": labels.contiguous(),
    }
