"""A context block in a ResNet-FPN: nothing renamed, zero at the start, all of it learns."""

import copy
import pickle

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.backbone import ResidualContext
from ocr_panoptic.modeling.meta_arch.batch import batch_scope, record_images

from ..conftest import needs_operators
from ..models import CONFIGS, small_model

INSTANCES = CONFIGS / "COCO-InstanceSegmentation"
CONTEXTS = ["isa", "non_local", "self_attention"]
CONTEXT_KEY = "MODEL.RESNETS.CONTEXT"
# Detectron2's names of the layers in the file of its ImageNet weights.
CAFFE2_NAMES = {
    "shortcut": "branch1",
    "conv1": "branch2a",
    "conv2": "branch2b",
    "conv3": "branch2c",
}


def config(name="mask_rcnn_isa_R_50_FPN_1x", *overrides):
    small = ["MODEL.DEVICE", "cpu", f"{CONTEXT_KEY}.NORM", "BN", *overrides]
    return load_config(str(INSTANCES / f"{name}.yaml"), [str(word) for word in small])


def make_backbone(context, *overrides, seed=0):
    torch.manual_seed(seed)
    return build_backbone(
        config("mask_rcnn_isa_R_50_FPN_1x", f"{CONTEXT_KEY}.NAME", context, *overrides)
    )


def small_resnet(*overrides):
    """Overrides for a narrow ResNet-18."""
    return [
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        *("MODEL.FPN.OUT_CHANNELS", 16),
        *overrides,
    ]


def contexts(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, ResidualContext)}


@pytest.mark.parametrize(
    ("depth", "overrides", "path"),
    [
        (18, ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64), "res4.1"),
        (34, ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64), "res4.5"),
        (50, (), "res4.5"),
        (50, (f"{CONTEXT_KEY}.STAGE", "res3", f"{CONTEXT_KEY}.BLOCK", 0), "res3.0"),
        (50, (f"{CONTEXT_KEY}.BLOCK", -6), "res4.0"),
        pytest.param(
            50,
            ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, True]),
            "res4.5",
            marks=needs_operators,
        ),
        (101, (), "res4.22"),
        (152, (), "res4.35"),
    ],
)
def test_only_the_contexts_keys_are_new(depth, overrides, path):
    overrides = ("MODEL.RESNETS.DEPTH", depth, *overrides)
    ours = make_backbone("isa", *overrides)
    stock = make_backbone("", *overrides)
    assert list(contexts(ours)) == [f"bottom_up.{path}.context"]
    assert not contexts(stock)
    new = set(ours.state_dict()) - set(stock.state_dict())
    assert set(stock.state_dict()) <= set(ours.state_dict())
    assert all(key.startswith(f"bottom_up.{path}.context.") for key in new)
    # The context is inserted in front of the block: it has the block's input's channels.
    (context,) = contexts(ours).values()
    block = ours.get_submodule(f"bottom_up.{path}")
    assert context.norm.num_features == block.in_channels


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "overrides",
    [
        small_resnet(),
        ["MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", 16],
        pytest.param(
            [
                *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", 16),
                *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, False]),
            ],
            marks=needs_operators,
        ),
    ],
    ids=["basic", "bottleneck", "deformable"],
)
def test_adds_exactly_zero_at_the_start(context, overrides):
    ours, stock = make_backbone(context, *overrides), make_backbone("", *overrides, seed=1)
    stock.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        expected = stock.train(training)(images)
        found = ours.train(training)(images)
        assert all(torch.equal(found[level], expected[level]) for level in expected)
    (block,) = contexts(ours).values()
    nn.init.ones_(block.norm.weight)
    changed = ours(images)
    assert not torch.equal(changed["p4"], expected["p4"])
    assert not torch.equal(changed["p5"], expected["p5"])


def test_the_detector_equals_stock_mask_r_cnn_bit_for_bit(tmp_path):
    # Random weights give each of 81 classes about 1/81.
    threshold = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    torch.manual_seed(0)
    stock = build_model(config("mask_rcnn_R_50_FPN_1x", *threshold)).eval()
    for key, tensor in stock.state_dict().items():
        if key.endswith("conv3.norm.weight"):
            # Sixteen residual blocks of random weights would overflow.
            tensor.fill_(0.1)
    torch.save({"model": stock.state_dict()}, tmp_path / "model_final_a54504.pth")
    ours = build_model(config("mask_rcnn_isa_R_50_FPN_1x", *threshold)).eval()
    reported = []
    checkpointer = Checkpointer(ours)
    checkpointer._log_incompatible_keys = reported.append
    checkpointer.load(str(tmp_path / "model_final_a54504.pth"))
    (incompatible,) = reported
    assert incompatible.unexpected_keys == []
    assert incompatible.incorrect_shapes == []
    assert incompatible.missing_keys
    assert all(".res4.5.context." in key for key in incompatible.missing_keys)
    image = torch.randint(0, 256, (3, 100, 150), generator=torch.Generator().manual_seed(1))
    inputs = [{"image": image.float(), "height": 100, "width": 150}]
    with torch.no_grad():
        expected, found = stock(inputs)[0]["instances"], ours(inputs)[0]["instances"]
    assert len(expected) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def imagenet_name(key):
    """Name a tensor of a bottom-up ResNet as in Detectron2's ImageNet weights, in Caffe2's way."""
    *layer, kind = key.split(".")
    norm = layer[-1] == "norm"
    layer = layer[:-1] if norm else layer
    suffix = {"weight": "s" if norm else "w", "bias": "b"}[kind]
    if layer[0] == "stem":
        return f"res_conv1_bn_{suffix}" if norm else f"conv1_{suffix}"
    stage, block, conv = layer
    return f"{stage}_{block}_{CAFFE2_NAMES[conv]}_{'bn_' if norm else ''}{suffix}"


def test_imagenet_weights_are_all_used(tmp_path):
    backbone = make_backbone("isa")
    bottom_up = backbone.bottom_up
    generator = torch.Generator().manual_seed(2)
    blobs, expected = {}, {}
    for key, tensor in bottom_up.state_dict().items():
        if "context" not in key and "running" not in key and "num_batches" not in key:
            expected[key] = torch.rand(tensor.shape, generator=generator)
            blobs[imagenet_name(key)] = expected[key].numpy()
    assert len(blobs) == 159  # 53 convolutions, each with a scale and a bias
    blobs["fc1000_w"], blobs["fc1000_b"] = (torch.rand(*s).numpy() for s in ((1000, 2048), (1000,)))
    with (tmp_path / "R-50.pkl").open("wb") as file:
        pickle.dump({"blobs": blobs}, file)
    context_before = {k: v.clone() for k, v in bottom_up.state_dict().items() if "context" in k}

    model = build_model(config("mask_rcnn_isa_R_50_FPN_1x"))
    model.backbone = backbone
    reported = []
    checkpointer = Checkpointer(model)
    checkpointer._log_incompatible_keys = reported.append
    checkpointer.load(str(tmp_path / "R-50.pkl"))
    (incompatible,) = reported
    # fc1000, the classifier, under its name in Detectron2.
    assert set(incompatible.unexpected_keys) == {"fc1000.weight", "fc1000.bias"} or set(
        incompatible.unexpected_keys
    ) == {"linear.weight", "linear.bias"}
    assert incompatible.incorrect_shapes == []
    loaded = bottom_up.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    assert all(torch.equal(loaded[key], tensor) for key, tensor in context_before.items())


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_parameter_has_a_gradient_within_two_steps(context):
    # A map of 12x12 positions, more than one group and one window of 4x4.
    layer = contexts(make_backbone(context, *small_resnet(f"{CONTEXT_KEY}.PARTITIONS", (4, 4))))
    (block,) = layer.values()
    block.double().train()
    generator = torch.Generator().manual_seed(4)
    feats = torch.randn(
        2, block.norm.num_features, 12, 12, dtype=torch.float64, generator=generator
    )
    target = torch.randn(feats.shape, dtype=torch.float64, generator=generator)
    for step in range(2):
        block.zero_grad()
        (block(feats) - target).square().mean().backward()
        with torch.no_grad():
            gradients = {name: p.grad.abs().max().item() for name, p in block.named_parameters()}
            if step == 0:
                # Only the last norm: everything before it is multiplied by zero.
                assert {name for name, size in gradients.items() if size > 0} == {
                    "norm.weight",
                    "norm.bias",
                }
            for parameter in block.parameters():
                parameter -= 0.1 * parameter.grad
    assert min(gradients.values()) > 1e-12, gradients


def test_no_bias_that_never_learns():
    for context in CONTEXTS:
        (block,) = contexts(make_backbone(context, *small_resnet())).values()
        biases = {name for name, _ in block.named_parameters() if name.endswith(".bias")}
        expected = {"norm.bias"} | {name for name in biases if ".norm.bias" in name}
        # A query's bias decides how much each key counts.
        assert biases == expected | ({"layer.query.bias"} if context == "non_local" else set())


def test_freezing_leaves_the_context_trainable():
    backbone = make_backbone("isa", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 2)
    backbone.bottom_up.freeze(5)
    for name, parameter in backbone.bottom_up.named_parameters():
        assert parameter.requires_grad == (".context." in name), name
    norms = [m for m in backbone.bottom_up.res4[5].modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 3
    (block,) = contexts(backbone).values()
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in block.modules())
    assert isinstance(block.norm, nn.BatchNorm2d)


def test_the_norm_is_its_own_not_the_backbones():
    backbone = make_backbone("isa")
    assert isinstance(backbone.bottom_up.res4[4].conv1.norm, FrozenBatchNorm2d)
    (block,) = contexts(backbone).values()
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 9  # two transforms of two layers in each of two stages, and the last


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("NAME", "ISA2"), "CONTEXT.NAME: 'ISA2', expected one of "),
        (
            ("NAME", "ocr"),
            "CONTEXT.NAME: 'ocr' needs regions of classes, expected a scheme without",
        ),
        (("STAGE", "res6"), "CONTEXT.STAGE: 'res6', expected res2 or res3 or res4 or res5"),
        (("BLOCK", 6), "CONTEXT.BLOCK: 6 of res4, expected -6 to 5"),
        (("BLOCK", -7), "CONTEXT.BLOCK: -7 of res4, expected -6 to 5"),
        (("ORDER", "('globel',)"), "CONTEXT: isa on 1024 channels: stages are"),
        (("NORM", "GN", "STAGE", "res2", "BLOCK", 0), None),
    ],
)
def test_what_does_not_exist_is_named(overrides, message):
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    words = [word for key, value in pairs for word in (f"{CONTEXT_KEY}.{key}", value)]
    if message is None:
        assert contexts(make_backbone("isa", *words))
        return
    with pytest.raises(InputError) as caught:
        make_backbone("isa", *words)
    assert f"MODEL.RESNETS.{message}" in str(caught.value)


def test_can_be_copied_and_pickled():
    backbone = make_backbone("isa", *small_resnet()).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = backbone(images)["p4"]
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(images)["p4"], expected)


def test_the_context_knows_the_padding():
    backbone = make_backbone("isa", *small_resnet()).eval()
    (block,) = contexts(backbone).values()
    seen = []
    block.layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["padding_mask"]), with_kwargs=True
    )
    images = _image_list([(64, 96), (33, 50)], (64, 96))
    for mask_padding in (True, False):
        block.mask_padding = mask_padding
        with batch_scope():
            record_images(images)
            backbone(images.tensor)
    mask, nothing = seen
    assert nothing is None
    # At stride 16: 33x50 pixels touch 3x4 of 4x6 cells.
    expected = torch.ones(2, 4, 6, dtype=torch.bool)
    expected[0], expected[1, :3, :4] = False, False
    assert torch.equal(mask, expected)


def _image_list(sizes, padded):
    return ImageList(torch.zeros(len(sizes), 3, *padded), sizes)


@pytest.mark.parametrize("head", ["baseline", "ocr"])
@pytest.mark.parametrize("context", ["isa", "non_local"])
def test_works_in_panoptic_fpn(head, context):
    model = small_model(
        head,
        [
            *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN", f"{CONTEXT_KEY}.NAME", context),
            *("MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone"),
            *(f"{CONTEXT_KEY}.NORM", "BN"),
        ],
    )
    assert list(contexts(model)) == ["backbone.bottom_up.res4.1.context"]
    with EventStorage():
        losses = model.train()([_sample(64, 96), _sample(50, 70)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    (block,) = contexts(model).values()
    assert block.norm.weight.grad.abs().max() > 0
    with torch.no_grad():
        results = model.eval()([_sample(64, 96), _sample(50, 70)])
    assert [tuple(r["sem_seg"].shape[1:]) for r in results] == [(64, 96), (50, 70)]


def _sample(height, width):
    generator = torch.Generator().manual_seed(height)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, 40.0, 40.0]]))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = PolygonMasks([[torch.tensor([5.0, 5, 40, 5, 40, 40, 5, 40]).numpy()]])
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).float(),
        "sem_seg": torch.randint(0, 7, (height, width), generator=generator),
        "instances": instances,
        "height": height,
        "width": width,
    }
