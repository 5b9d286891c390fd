"""ResNets of torchvision and timm in Detectron2, and back."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone

from ocr_panoptic.convert import as_json, convert_checkpoint
from ocr_panoptic.convert.conversion import Conversion
from ocr_panoptic.convert.resnet import from_detectron2, to_detectron2
from ocr_panoptic.errors import InputError

from ..reference.foreign_heads import shake

STAGES = ["res2", "res3", "res4", "res5"]


def torchvision_model(name, **kwargs):
    return shake(getattr(torchvision.models, name)(**kwargs)).eval()


def names_of(name):
    """Return a ResNet's names, with tensors that have shapes and nothing else."""
    with torch.device("meta"):
        return getattr(torchvision.models, name)().state_dict()


def detectron2_of(conversion):
    """Build the ResNet that the printed config asks for, with the converted weights."""
    cfg = get_cfg()
    cfg.merge_from_list([str(part) for item in conversion.config.items() for part in item])
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    model = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    weights = {k: t for k, t in conversion.output.items() if not k.startswith("linear.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert all(name.endswith("num_batches_tracked") for name in unexpected)
    return model.eval(), cfg


def seen_by_detectron2(cfg, image):
    """Return what Detectron2 makes of an RGB image of values up to 255."""
    image = image if cfg.INPUT.FORMAT == "RGB" else image.flip(1)
    mean, std = (
        torch.tensor(getattr(cfg.MODEL, key), dtype=image.dtype).view(1, 3, 1, 1)
        for key in ("PIXEL_MEAN", "PIXEL_STD")
    )
    return (image - mean) / std


def seen_by_torchvision(image):
    transform = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return transform(image / 255)


def features_of(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    found = {}
    for name, stage in zip(STAGES, ("layer1", "layer2", "layer3", "layer4"), strict=True):
        found[name] = x = getattr(model, stage)(x)
    return found


# Both projects have the same names.
EACH = pytest.mark.parametrize(
    ("source", "name"), [("torchvision", "resnet50"), ("timm", "resnet18")]
)


@EACH
def test_the_same_numbers_come_out(source, name, tmp_path):
    model = torchvision_model(name).double()
    path = tmp_path / "given.pth"
    torch.save(model.state_dict(), path)
    conversion = convert_checkpoint(source, "detectron2", path)
    backbone, cfg = detectron2_of(conversion)
    backbone.double()
    image = torch.rand(1, 3, 70, 65, dtype=torch.float64) * 255
    with torch.no_grad():
        expected = features_of(model, seen_by_torchvision(image))
        found = backbone(seen_by_detectron2(cfg, image))
        for stage in STAGES:
            size = expected[stage].abs().max()
            assert (found[stage] - expected[stage]).abs().max() < 1e-9 * size, stage
        logits = F.linear(
            found["res5"].mean(dim=(2, 3)),
            conversion.output["linear.weight"],
            conversion.output["linear.bias"],
        )
        classes = model(seen_by_torchvision(image))
    assert (logits - classes).abs().max() < 1e-9 * classes.abs().max()


@EACH
def test_there_and_back_is_the_same_file(source, name, tmp_path):
    model = torchvision_model(name)
    state = model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "given.pth")
    own = convert_checkpoint(source, "detectron2", tmp_path / "given.pth")
    torch.save({"model": own.output}, tmp_path / "own.pth")
    back = convert_checkpoint("detectron2", source, tmp_path / "own.pth").output
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    # In torchvision itself, of the names and the shapes that it wants.
    model.load_state_dict(back)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnet18", {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}),
        ("resnet34", {"DEPTH": 34, "RES2_OUT_CHANNELS": 64}),
        ("resnet50", {"DEPTH": 50, "STRIDE_IN_1X1": False}),
        ("resnet101", {"DEPTH": 101, "STRIDE_IN_1X1": False}),
        ("resnet152", {"DEPTH": 152, "STRIDE_IN_1X1": False}),
        (
            "resnext50_32x4d",
            {"DEPTH": 50, "STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
        ),
        (
            "wide_resnet50_2",
            {"DEPTH": 50, "STRIDE_IN_1X1": False, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 128},
        ),
    ],
)
def test_every_depth(name, config):
    weights = names_of(name)
    there = Conversion("file", weights)
    to_detectron2(there, timm=False)
    assert there.config == {
        **{f"MODEL.RESNETS.{key}": value for key, value in config.items()},
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    }
    assert len(there.output) == len(weights) == len(as_json(there)["renamed"])
    back = Conversion("file", there.output)
    from_detectron2(back)
    assert {key: tensor.shape for key, tensor in back.output.items()} == {
        key: tensor.shape for key, tensor in weights.items()
    }


def test_out_of_a_whole_detector():
    there = Conversion("file", names_of("resnet50"))
    to_detectron2(there, timm=False)
    weights = {
        f"backbone.bottom_up.{name}": tensor
        for name, tensor in there.output.items()
        if not name.startswith("linear.") and not name.endswith("num_batches_tracked")
    }
    weights["backbone.fpn_lateral2.weight"] = torch.zeros(1)
    back = Conversion("file", weights)
    from_detectron2(back)
    assert back.left_out == {"backbone.fpn_lateral2.weight": "no part of the ResNet"}
    assert back.missing == {"fc.*": "a detector has no classifier"}
    model = torchvision.models.resnet50()
    missing, unexpected = model.load_state_dict(
        {name: torch.zeros(tensor.shape) for name, tensor in back.output.items()}, strict=False
    )
    # Without a counter a BatchNorm begins at zero.
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    assert any("STRIDE_IN_1X1 False" in note for note in back.notes)


def test_a_context_block_is_refused_or_left_out():
    there = Conversion("file", names_of("resnet50"))
    to_detectron2(there, timm=False)
    name = "res4.5.context.norm.weight"
    weights = {**there.output, name: torch.zeros(1)}
    with pytest.raises(InputError, match=r"res4\.5\.context\.norm\.weight is of a context block"):
        from_detectron2(Conversion("file", weights))
    back = Conversion("file", weights, allow_inexact=True)
    from_detectron2(back)
    assert back.left_out == {name: "of a context block"}
    assert len(back.inexact) == 1


# Of what a ResNet's names become -> what is said of it.
BAD = {
    "a deep stem": (
        lambda w: {**w, "conv1.0.weight": w["conv1.weight"]},
        "conv1.0.weight is of a ResNet with a deep stem, a 'd' variant",
    ),
    "pooled shortcuts": (
        lambda w: {**w, "layer1.0.downsample.2.weight": w["bn1.weight"]},
        "layer1.0.downsample.2.weight is of a ResNet with average pooling in its shortcuts",
    ),
    "squeeze": (
        lambda w: {**w, "layer1.0.se.fc1.weight": w["bn1.weight"]},
        "layer1.0.se.fc1.weight is of a ResNet with squeeze and excitation",
    ),
    "something else": (
        lambda w: {**w, "head.weight": w["bn1.weight"]},
        "head.weight is nothing that a ResNet has",
    ),
    "a fifth stage": (
        lambda w: {**w, "layer5.0.conv1.weight": w["bn1.weight"]},
        "res6.0.conv1.weight is nothing that a ResNet-50 has",
    ),
    "a tensor of a norm too many": (
        lambda w: {**w, "bn1.slope": w["bn1.weight"]},
        "stem.conv1.norm.slope is nothing that a ResNet-50 has",
    ),
    "GroupNorm": (
        lambda w: {k: t for k, t in w.items() if "running_" not in k},
        "stem.conv1.norm.running_mean is missing",
    ),
    "a missing block": (
        lambda w: {k: t for k, t in w.items() if not k.startswith("layer3.5.")},
        "[3, 4, 5, 3] bottleneck blocks, expected a ResNet of depth 18, 34, 50, 101, 152",
    ),
    "another width": (
        lambda w: {**w, "layer2.0.conv1.weight": torch.zeros(2, 256, 1, 1)},
        "layer2.0.conv1.weight is 2x256x1x1, expected 128x256x1x1",
    ),
    "a grey stem": (
        lambda w: {**w, "conv1.weight": torch.zeros(64, 1, 7, 7)},
        "conv1.weight is 64x1x7x7, expected 64x3x7x7",
    ),
    "another classifier": (
        lambda w: {**w, "fc.weight": torch.zeros(10, 7)},
        "its classifier is 10x7, expected 2048 columns",
    ),
    "an empty 3x3": (
        lambda w: {**w, "layer1.0.conv2.weight": torch.zeros(0, 0, 3, 3)},
        "layer1.0.conv2.weight is 0x0x3x3, expected 64x64x3x3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_plain_resnet(case):
    spoil, message = BAD[case]
    conversion = Conversion("file", spoil(dict(names_of("resnet50"))))
    with pytest.raises(InputError) as caught:
        to_detectron2(conversion, timm=True)
    assert str(caught.value).startswith("file does not fit: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conv1_w": torch.zeros(1)}, "it has no stem.conv1.weight"),
        (
            {"stem.conv1.weight": torch.zeros(1), "stem.other": torch.zeros(1)},
            "stem.other is nothing that a ResNet has",
        ),
        (
            {f"{part}.stem.conv1.weight": torch.zeros(1) for part in ("backbone", "teacher")},
            "it holds 2 names that end with stem.conv1.weight, expected one",
        ),
        ({"stem.conv1.weight": torch.zeros(1)}, "[0, 0, 0, 0] basic blocks, expected"),
    ],
)
def test_what_is_no_resnet_of_detectron2(weights, message):
    with pytest.raises(InputError) as caught:
        from_detectron2(Conversion("file", weights))
    assert message in str(caught.value)
