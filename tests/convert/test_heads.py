"""Heads of other projects: the same numbers come out, and all that does not fit is told."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from ocr_panoptic.convert import Options, as_json, as_text, convert_checkpoint
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import BaseOC, InterlacedSparseSelfAttention, OCRModule
from ocr_panoptic.modeling.sem_seg.context_fpn_head import ContextSemSegFPNHead
from ocr_panoptic.modeling.sem_seg.ocr_fpn_head import OCRSemSegFPNHead

from ..reference.foreign_heads import MmsegISA, MmsegOCR, OpensegISA, OpensegOCR, shake

READ, WIDTH, KEYS, CLASSES = 6, 16, 8, 5
FACTORS = (3, 2)
FPN = {"p2": ShapeSpec(channels=READ, stride=4)}
COMMON = {
    **{"conv_dims": READ, "num_classes": CLASSES, "common_stride": 4, "norm": ""},
    **{"ignore_value": 255, "loss_weight": 0.5, "mask_padding": False},
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}

OCR = {
    "openseg-ocr": lambda: OpensegOCR(READ, WIDTH, KEYS, CLASSES),
    "mmseg-ocr": lambda: MmsegOCR(READ, WIDTH, KEYS, CLASSES),
}
ISA = {
    "openseg-isa": lambda: OpensegISA(READ, WIDTH, KEYS, 12, CLASSES, FACTORS),
    "mmseg-isa": lambda: MmsegISA(READ, WIDTH, KEYS, CLASSES, FACTORS),
}
FOREIGN = {**OCR, **ISA}


def own_of(name):
    return name.partition("-")[2]


def ocr_head(**kwargs):
    sizes = {"ocr_channels": WIDTH, "ocr_key_channels": KEYS, "ocr_norm": "BN", "ocr_dropout": 0.0}
    return OCRSemSegFPNHead(FPN, **COMMON, **{**sizes, **kwargs})


def isa_head(values, **kwargs):
    sizes = {"norm": "BN", "output_norm": "BN", "value_channels": values}
    isa = InterlacedSparseSelfAttention(
        WIDTH, key_channels=KEYS, partitions=FACTORS, mask_padding=False, **{**sizes, **kwargs}
    )
    context = BaseOC(isa, WIDTH, WIDTH, WIDTH, dropout=0.0, norm="BN")
    return ContextSemSegFPNHead(
        FPN, **COMMON, context=context, context_channels=WIDTH, context_norm="BN"
    )


def own_head(name):
    return {
        **{"openseg-ocr": ocr_head, "mmseg-ocr": ocr_head},
        **{"openseg-isa": lambda: isa_head(12), "mmseg-isa": lambda: isa_head(WIDTH)},
    }[name]()


def convert(source, target, state, folder, **options):
    path = folder / "given.pth"
    torch.save(state, path)
    return convert_checkpoint(source, target, path, options=Options(**options))


def refused(source, target, state, folder, **options):
    with pytest.raises(InputError) as caught:
        convert(source, target, state, folder, **options)
    message = str(caught.value)
    assert message.startswith(str(folder / "given.pth"))
    assert "\n" not in message
    return message


def load(head, converted):
    """Load what was converted; all of the head behind the fused map must be in it."""
    state = {name.removeprefix("sem_seg_head."): t for name, t in converted.items()}
    missing, unexpected = head.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("p2.", "predictor.")) for name in missing), missing
    return head


def run_own(head, feats, logits):
    if isinstance(head, OCRSemSegFPNHead):
        return head.ocr_predictor(head.augment(head.ocr_transform, head.ocr, feats, logits))
    return head.context_predictor(head.augment(head.context_transform, head.context, feats, None))


def run_foreign(model, feats, logits):
    is_ocr = isinstance(model, OpensegOCR | MmsegOCR)
    return model(feats, logits) if is_ocr else model(feats)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_same_numbers_come_out(name, dtype, training, tmp_path):
    model = shake(FOREIGN[name]()).to(dtype).train(training)
    conversion = convert(name, own_of(name), {"state_dict": model.state_dict()}, tmp_path)
    head = load(own_head(name).to(dtype), conversion.output).train(training)
    generator = torch.Generator().manual_seed(1)
    # 7x5 is no multiple of the partitions.
    feats = torch.randn(2, READ, 7, 5, generator=generator, dtype=dtype)
    logits = torch.randn(2, CLASSES, 7, 5, generator=generator, dtype=dtype)
    with torch.no_grad():
        expected = run_foreign(model, feats, logits)
        found = run_own(head, feats, logits)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("name", FOREIGN)
def test_back_the_same_numbers_come_out(name, tmp_path):
    head = shake(own_head(name)).double().eval()
    state = {f"sem_seg_head.{key}": tensor for key, tensor in head.state_dict().items()}
    conversion = convert(own_of(name), name, {"model": state}, tmp_path)
    model = FOREIGN[name]().double().eval()
    missing, unexpected = model.load_state_dict(conversion.output, strict=False)
    assert not unexpected
    others = ("dsn_head.", "decode_head.0.", "auxiliary_head.")
    assert all(key.startswith(others) for key in missing), missing
    feats, logits = (
        torch.randn(2, channels, 7, 5, dtype=torch.float64) for channels in (READ, CLASSES)
    )
    with torch.no_grad():
        expected = run_own(head, feats, logits)
        found = run_foreign(model, feats, logits)
    assert (found - expected).abs().max() < 1e-9


@pytest.mark.parametrize("name", FOREIGN)
def test_there_and_back_is_bit_for_bit(name, tmp_path):
    own = own_of(name)
    head = shake(own_head(name))
    keys = [k for k in head.state_dict() if not k.startswith(("p2.", "predictor."))]
    state = {f"sem_seg_head.{key}": head.state_dict()[key] for key in keys}
    foreign = convert(own, name, {"model": state}, tmp_path).output
    back = convert(name, own, {"state_dict": foreign}, tmp_path).output
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    # Biases have gone into the norms on the first way: from then on nothing changes either.
    again = convert(own, name, {"model": back}, tmp_path).output
    assert set(again) == set(foreign)
    assert all(torch.equal(again[key], foreign[key]) for key in foreign)


@pytest.mark.parametrize(
    "names", [OpensegOCR.OCRNET, OpensegOCR.HRNET, OpensegOCR.HRNET_OCR], ids=lambda n: n[0]
)
def test_every_network_with_openseg_s_ocr(names, tmp_path):
    model = shake(OpensegOCR(READ, WIDTH, KEYS, CLASSES, names=names))
    # As DataParallel saves it, with a backbone.
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    state["module.backbone.conv1.weight"] = torch.zeros(1)
    conversion = convert("openseg-ocr", "ocr", {"state_dict": state}, tmp_path, prefix="")
    assert not conversion.missing
    assert torch.equal(
        conversion.output["ocr_transform.weight"], state[f"module.{names[0]}.0.weight"]
    )
    assert conversion.left_out["backbone.conv1.weight"] == "of the backbone"
    regions = [key for key in conversion.left_out if key.startswith(f"{names[3]}.")]
    assert len(regions) == len(conversion.left_out) - 1 == 9


@pytest.mark.parametrize(
    ("name", "inner", "own"),
    [
        ("openseg-ocr", "spatial_ocr_head.", "ocr"),
        ("mmseg-ocr", "decode_head.1.", "ocr"),
        ("openseg-isa", "isa_head.2.", "context"),
        ("mmseg-isa", "decode_head.", "context"),
    ],
)
def test_the_module_alone(name, inner, own, tmp_path):
    state = shake(FOREIGN[name]()).state_dict()
    whole = convert(name, own_of(name), state, tmp_path, prefix="").output
    alone = {key.removeprefix(inner): t for key, t in state.items() if key.startswith(inner)}
    conversion = convert(name, own_of(name), alone, tmp_path, prefix="")
    assert all(torch.equal(whole[key], tensor) for key, tensor in conversion.output.items())
    assert {key for key in whole if key.startswith(f"{own}.")} <= set(conversion.output)
    if name.startswith("openseg"):
        assert conversion.missing == dict.fromkeys(
            [f"{own}_transform.*", f"{own}_predictor.*"], "not in the file"
        )
    else:
        assert not conversion.missing


def test_layers_without_a_head(tmp_path):
    """The converted names, without their first part, are those of the layers alone."""
    state = shake(OCR["openseg-ocr"]()).state_dict()
    converted = convert("openseg-ocr", "ocr", state, tmp_path, prefix="").output
    inner = {k.removeprefix("ocr."): t for k, t in converted.items() if k.startswith("ocr.")}
    OCRModule(WIDTH, KEYS, WIDTH, norm="BN").load_state_dict(inner)
    # A frozen norm has no counter, and no other tensor.
    keys = OCRModule(WIDTH, KEYS, WIDTH, norm="FrozenBN").load_state_dict(inner, strict=False)
    assert not keys.missing_keys
    assert all(key.endswith("num_batches_tracked") for key in keys.unexpected_keys)


def test_everything_is_reported(tmp_path):
    state = shake(ISA["mmseg-isa"]()).state_dict()
    conversion = convert("mmseg-isa", "isa", {"state_dict": state}, tmp_path)
    found = as_json(conversion)
    changed = {change["to"]: change for change in found["changed"]}
    stage = "sem_seg_head.context.context.relations.local"
    assert set(changed) == {
        "sem_seg_head.context.fuse.0.weight",
        f"{stage}.output.norm.running_mean",
        f"{stage}.output.norm.running_mean".replace("local", "global"),
    }
    assert changed[f"{stage}.output.norm.running_mean"]["from"] == [
        "decode_head.local_relation.output_project.bn.running_mean",
        "decode_head.local_relation.value_project.bias",
    ]
    renamed = found["renamed"]
    assert renamed["decode_head.conv_seg.weight"] == "sem_seg_head.context_predictor.weight"
    # Each tensor of the file is in one place, and each of the result has one origin.
    used = [*renamed, *(source for change in found["changed"] for source in change["from"])]
    assert sorted([*used, *found["left_out"]]) == sorted(state)
    assert sorted([*renamed.values(), *changed]) == sorted(conversion.output)
    assert set(found["left_out"].values()) == {"an auxiliary prediction, used in training only"}
    assert found["config"]["MODEL.SEM_SEG_HEAD.CONTEXT.KEY_CHANNELS"] == KEYS
    assert found["exact"]
    text = as_text(conversion)
    assert f"0 matched, {len(renamed)} renamed, 3 changed, 8 left out, 0 missing" in text
    assert "    MODEL.SEM_SEG_HEAD.NUM_CLASSES 5" in text


def test_leaky_relu_is_refused_or_said(tmp_path):
    model = shake(OpensegOCR(READ, WIDTH, KEYS, CLASSES, abn=True)).double().eval()
    state = model.state_dict()
    message = refused("openseg-ocr", "ocr", state, tmp_path)
    assert "InPlaceABN, with a leaky ReLU of slope 0.01" in message
    assert "--allow-inexact" in message
    conversion = convert("openseg-ocr", "ocr", state, tmp_path, allow_inexact=True)
    assert len(as_json(conversion)["inexact"]) == 1
    assert not as_json(conversion)["exact"]
    assert "not exact: its norms are InPlaceABN" in as_text(conversion)
    head = load(ocr_head().double(), conversion.output).eval()
    feats, logits = (
        torch.randn(1, channels, 4, 6, dtype=torch.float64) for channels in (READ, CLASSES)
    )
    with torch.no_grad():
        found = run_own(head, feats, logits)
        assert (found - model(feats, logits)).abs().max() > 1e-4
        for module in model.modules():
            if hasattr(module, "slope"):
                module.slope = 0.0
        # The slope is all that differs: weights count by their absolute value.
        assert (found - model(feats, logits)).abs().max() < 1e-9


def test_a_classifier_without_bias_gets_zeros(tmp_path):
    state = shake(OCR["openseg-ocr"]()).state_dict()
    del state["head.bias"]
    conversion = convert("openseg-ocr", "ocr", state, tmp_path, prefix="")
    assert not conversion.output["ocr_predictor.bias"].any()
    assert conversion.output["ocr_predictor.bias"].shape == (CLASSES,)
    assert any(move.how == "zero: the file has none" for move in conversion.moves)


def test_a_tensor_keeps_nothing_of_a_larger_one_alive(tmp_path):
    state = shake(OCR["mmseg-ocr"]()).state_dict()
    name = "decode_head.1.conv_seg.weight"
    state[name] = torch.cat([state[name], torch.zeros(1000, WIDTH, 1, 1)])[:CLASSES]
    converted = convert("mmseg-ocr", "ocr", state, tmp_path, prefix="").output
    assert converted["ocr_predictor.weight"].untyped_storage().nbytes() == CLASSES * WIDTH * 4


BAD_FILES = {
    "nothing of it": (
        "openseg-ocr",
        lambda state: {"conv1.weight": torch.zeros(1)},
        "it has no spatial_ocr_head.object_context_block.f_pixel.0.weight",
    ),
    "a norm is missing": (
        "openseg-ocr",
        lambda state: without(state, "spatial_ocr_head.object_context_block.f_up.1.0."),
        "spatial_ocr_head.object_context_block.f_up.1.0.weight is missing",
    ),
    "a layer is missing": (
        "mmseg-ocr",
        lambda state: without(state, "decode_head.1.object_context_block.out_project."),
        "decode_head.1.object_context_block.out_project.conv.weight is missing",
    ),
    "a layer too many": (
        "mmseg-ocr",
        lambda state: {
            **state,
            "decode_head.1.object_context_block.key_project.2.conv.weight": torch.zeros(8, 8, 1, 1),
        },
        "object_context_block.key_project.2.conv.weight is nothing that such a block has",
    ),
    "two heads": (
        "openseg-isa",
        lambda state: {**state, **{f"ema.{key}": tensor for key, tensor in state.items()}},
        "it holds 2 names that end with isa_head.2.stages.0.long_range_sa.f_query.0.weight",
    ),
    "several partitions": (
        "openseg-isa",
        lambda state: {**state, "isa_head.2.up_conv.0.weight": torch.zeros(32, 16, 1, 1)},
        "isa_head.2.up_conv.0.weight is nothing that such a block has",
    ),
    "another width": (
        "openseg-ocr",
        lambda state: {
            **state,
            "spatial_ocr_head.object_context_block.f_object.2.weight": torch.zeros(8, 9, 1, 1),
        },
        "f_object.2.weight is 8x9x1x1, expected 8x8x1x1",
    ),
    "no kernel": (
        "mmseg-isa",
        lambda state: {**state, "decode_head.global_relation.value_project.weight": torch.zeros(3)},
        "value_project.weight is 3, expected the four sizes of a convolution",
    ),
    "a bias of another size": (
        "mmseg-isa",
        lambda state: {**state, "decode_head.global_relation.value_project.bias": torch.zeros(3)},
        "value_project.bias and decode_head.global_relation.output_project.conv.weight differ",
    ),
    "a bias before a norm of another size": (
        "openseg-ocr",
        lambda state: {**state, "conv_3x3.0.bias": torch.zeros(3)},
        "conv_3x3.0.bias and conv_3x3.1.0.running_mean differ in size",
    ),
    "whole numbers": (
        "mmseg-ocr",
        lambda state: {key: tensor.to(torch.int8) for key, tensor in state.items()},
        "is of torch.int8, expected floating point numbers",
    ),
    "GroupNorm of openseg": (
        "openseg-isa",
        lambda state: {k: t for k, t in state.items() if "running_" not in k},
        "has no running_mean, expected a BatchNorm",
    ),
    "GroupNorm of mmseg": (
        "mmseg-ocr",
        lambda state: {
            k.replace(".bn.", ".gn."): t for k, t in state.items() if "running_" not in k
        },
        "decode_head.1.object_context_block.query_project.0.gn has no running_mean",
    ),
    "an odd fusion": (
        "mmseg-isa",
        lambda state: {**state, "decode_head.out_conv.conv.weight": torch.zeros(16, 31, 1, 1)},
        "its fusion reads 31 channels, expected an even number",
    ),
}


def without(state, prefix):
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_do_not_fit(case, tmp_path):
    name, spoil, message = BAD_FILES[case]
    state = spoil(dict(FOREIGN[name]().state_dict()))
    assert message in refused(name, own_of(name), state, tmp_path)


BAD_HEADS = {
    "no head": ("openseg-ocr", lambda: OCRModule(16, 8, 16), "it has no ocr.query.0.weight"),
    "one transform": (
        "openseg-ocr",
        lambda: ocr_head(ocr_transform_layers=1),
        "it has no ocr.query.1, expected the layers that others have",
    ),
    "three transforms": (
        "mmseg-ocr",
        lambda: ocr_head(ocr_transform_layers=3),
        "ocr.query.2.weight is nothing that such a block has",
    ),
    "no norm": ("mmseg-ocr", lambda: ocr_head(ocr_norm=""), "ocr.query.0.norm.weight is missing"),
    "no output norm": (
        "openseg-isa",
        lambda: isa_head(WIDTH, output_norm=""),
        "relations.global.output.norm.weight is missing, expected a BatchNorm behind",
    ),
    "half values": (
        "mmseg-isa",
        lambda: isa_head(WIDTH // 2),
        "global.value makes 8 channels of 16, expected as many",
    ),
    "one stage": (
        "openseg-isa",
        lambda: isa_head(WIDTH, stages=("global",)),
        "context.context.relations.local.output.weight is missing",
    ),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_heads_that_others_do_not_have(case, tmp_path):
    name, build, message = BAD_HEADS[case]
    assert message in refused(own_of(name), name, build().state_dict(), tmp_path)


def test_widths_that_others_do_not_have(tmp_path):
    layer = OCRModule(16, 8, 24, norm="BN")
    state = {f"ocr.{key}": tensor for key, tensor in layer.state_dict().items()}
    message = refused("ocr", "openseg-ocr", state, tmp_path)
    assert "ocr.fuse.0 makes 24 channels of 40, expected half of them" in message
