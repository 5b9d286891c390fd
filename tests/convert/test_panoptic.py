"""The model zoo's Panoptic-FPN as a start for OCR."""

import pickle

import pytest
import torch
from detectron2.structures import ImageList

from ocr_panoptic.convert import Options, convert_checkpoint
from ocr_panoptic.errors import InputError

from ..models import small_model


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A stock Panoptic-FPN, and its weights in the form of the model zoo."""
    model = small_model("baseline").eval()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    # Old files hold what the config has.
    weights["pixel_mean"] = model.pixel_mean.numpy()
    (anchors, *_) = model.proposal_generator.anchor_generator.cell_anchors
    weights["proposal_generator.anchor_generator.cell_anchors.0"] = anchors.numpy()
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    return model, path


def semantic(model, image):
    """Return the maps that the semantic head begins with, and the head's predictions."""
    images = ImageList.from_tensors([image], 32)
    features = model.backbone(images.tensor)
    return features, model.sem_seg_head


def test_it_predicts_the_regions_as_before(zoo):
    stock, path = zoo
    conversion = convert_checkpoint("panoptic-fpn", "panoptic-fpn-ocr", path)
    assert (
        conversion.config["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]
        == stock.sem_seg_head.predictor.out_channels
    )
    model = small_model("ocr", seed=1).eval()
    constants = ["pixel_mean", "proposal_generator.anchor_generator.cell_anchors.0"]
    assert list(conversion.left_out) == constants
    missing, unexpected = model.load_state_dict(conversion.output, strict=False)
    assert not unexpected
    starts_anew = (
        "sem_seg_head.ocr.",
        "sem_seg_head.ocr_transform.",
        "sem_seg_head.ocr_predictor.",
    )
    assert all(name.startswith(starts_anew) for name in missing)
    new = [name for name in model.state_dict() if name.startswith(starts_anew)]
    assert set(missing) == {name for name in new if not name.endswith("num_batches_tracked")}
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, head = semantic(stock, image)
        expected = head.layers(features)
        features, head = semantic(model, image)
        regions, _ = head.layers(features)
    assert torch.equal(regions, expected)


def test_another_number_of_classes(zoo):
    _, path = zoo
    conversion = convert_checkpoint(
        "panoptic-fpn", "panoptic-fpn-ocr", path, options=Options(num_classes=3)
    )
    left_out = [k for k in conversion.left_out if k.startswith("sem_seg_head.")]
    assert left_out == ["sem_seg_head.predictor.weight", "sem_seg_head.predictor.bias"]
    assert conversion.config["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == 3
    assert "sem_seg_head.predictor.*" in conversion.missing
    model = small_model("ocr", ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3])
    missing, unexpected = model.load_state_dict(conversion.output, strict=False)
    assert not unexpected
    assert "sem_seg_head.predictor.weight" in missing


def test_the_same_number_of_classes_is_kept(zoo):
    stock, path = zoo
    classes = stock.sem_seg_head.predictor.out_channels
    options = Options(num_classes=classes)
    conversion = convert_checkpoint("panoptic-fpn", "panoptic-fpn-ocr", path, options=options)
    assert "sem_seg_head.predictor.weight" in conversion.output


def test_without_ocr_again(tmp_path):
    model = small_model("ocr")
    torch.save({"model": model.state_dict()}, tmp_path / "ocr.pth")
    stock = convert_checkpoint("panoptic-fpn-ocr", "panoptic-fpn", tmp_path / "ocr.pth")
    assert set(stock.left_out.values()) == {"of OCR"}
    missing, unexpected = small_model("baseline").load_state_dict(stock.output, strict=False)
    assert not missing
    assert not unexpected
    torch.save({"model": stock.output}, tmp_path / "stock.pth")
    back = convert_checkpoint("panoptic-fpn", "panoptic-fpn-ocr", tmp_path / "stock.pth").output
    assert set(back) == set(stock.output)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())


BAD = {
    "no semantic head": (
        lambda w: {k: t for k, t in w.items() if not k.startswith("sem_seg_head.")},
        "sem_seg_head.p2.0.weight is missing",
    ),
    "no masks": (
        lambda w: {k: t for k, t in w.items() if "mask_head" not in k},
        "roi_heads.mask_head.predictor.weight is missing",
    ),
    "OCR already": (
        lambda w: {**w, "sem_seg_head.ocr.query.0.weight": torch.zeros(1)},
        "sem_seg_head.ocr.query.0.weight is of OCR already",
    ),
    "another predictor": (
        lambda w: {**w, "sem_seg_head.predictor.weight": torch.zeros(9, 7, 1, 1)},
        "sem_seg_head.predictor is 9x7x1x1 with a bias of 7, expected a classifier of 32 channels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_do_not_fit(case, zoo, tmp_path):
    spoil, message = BAD[case]
    path = tmp_path / "given.pth"
    torch.save({"model": spoil(dict(zoo[0].state_dict()))}, path)
    with pytest.raises(InputError) as caught:
        convert_checkpoint("panoptic-fpn", "panoptic-fpn-ocr", path)
    assert str(caught.value).startswith(f"{path} does not fit: ")
    assert message in str(caught.value)


def test_a_model_without_ocr_is_no_model_with_it(zoo, tmp_path):
    with pytest.raises(InputError, match=r"it has no sem_seg_head\.ocr\.query\.0\.weight"):
        convert_checkpoint("panoptic-fpn-ocr", "panoptic-fpn", zoo[1])
