"""The guard of the inference path, on predictions whose difference is known."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import Metadata

from ocr_panoptic.data.panoptic_json import write_panoptic_png
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.agreement import Agreement, compare_models, format_agreement
from ocr_panoptic.evaluation.panoptic_truth import GroundTruth

METADATA = Metadata(
    thing_dataset_id_to_contiguous_id={5: 0},
    stuff_dataset_id_to_contiguous_id={0: 0, 9: 1},
    name="agreement",
)
CATEGORIES = [{"id": 5, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]
# A thing of columns 0 to 3, and stuff of the others.
TRUE_IDS = np.repeat([1] * 4 + [2] * 6, 10).reshape(10, 10).T


@pytest.fixture
def truth(tmp_path):
    annotations = []
    for image_id in (7, 8):
        write_panoptic_png(tmp_path / f"{image_id}.png", TRUE_IDS.astype(np.int32))
        segments = [
            {"id": 1, "category_id": 5, "area": 40, "iscrowd": 0},
            {"id": 2, "category_id": 9, "area": 60, "iscrowd": 0},
        ]
        name = f"{image_id}.png"
        annotations.append({"image_id": image_id, "file_name": name, "segments_info": segments})
    content = {"annotations": annotations, "categories": CATEGORIES}
    content["images"] = [
        {"id": image_id, "file_name": f"{image_id}.jpg", "height": 10, "width": 10}
        for image_id in (7, 8)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return GroundTruth(tmp_path / "truth.json", tmp_path)


def predicting(columns, *, as_logits=False):
    """A model that finds the thing in the first columns of an image, by its image_id."""

    def model(inputs):
        results = []
        for image in inputs:
            thing = columns[image["image_id"]]
            ids = torch.full((10, 10), 2, dtype=torch.int32)
            ids[:, :thing] = 1
            labels = (ids == 2).long()
            segments = [{"id": 2, "isthing": False, "category_id": 1}]
            if thing:
                segments.append({"id": 1, "isthing": True, "category_id": 0, "score": 0.9})
            semantic = {"sem_seg_labels": labels}
            if as_logits:
                semantic = {"sem_seg": torch.stack([1.0 - labels, labels.float()])}
            results.append({"panoptic_seg": (ids, segments), **semantic})
        return results

    return model


LOADER = [[{"image_id": 7}], [{"image_id": 8}]]


@pytest.mark.parametrize("as_logits", [True, False])
def test_a_known_difference_is_counted(truth, as_logits):
    reference = predicting({7: 4, 8: 1}, as_logits=as_logits)
    # Image 7 loses the thing (1 of 4 columns), image 8 gains it.
    model = predicting({7: 1, 8: 4})
    found = compare_models(reference, model, LOADER, truth, METADATA)
    assert (found.images, found.matches, found.lost, found.gained) == (2, 3, 1, 1)
    assert found.same_labels == pytest.approx(70)
    assert found.PQ[0] == pytest.approx(found.PQ[1])
    assert not found.is_kept
    text = format_agreement(found, "bfloat16")
    assert "same semantic label: 70.000 % of pixels" in text
    assert "flipped matches: 2 of 3 (1 lost, 1 gained)" in text
    assert text.endswith("NOT within the bounds: 99 % of pixels or more, PQ by 0.3 points or less")


def test_pq_is_that_of_each_model(truth):
    reference = predicting({7: 4, 8: 4})
    found = compare_models(reference, predicting({7: 4, 8: 0}), LOADER, truth, METADATA)
    assert found.PQ[0] == found.PQ_th[0] == found.PQ_st[0] == 100
    # One thing of two is missing, and its columns are stuff's: IoU 0.6 in one image.
    assert found.PQ_th[1] == pytest.approx(100 * 1 / 1.5)
    assert found.PQ_st[1] == pytest.approx(100 * (1 + 0.6) / 2)
    assert found.PQ[1] == pytest.approx((found.PQ_th[1] + found.PQ_st[1]) / 2)
    assert (found.matches, found.lost, found.gained) == (4, 1, 0)
    same = compare_models(reference, reference, LOADER, truth, METADATA)
    assert same.is_kept
    assert (same.same_labels, same.lost, same.gained) == (100, 0, 0)
    assert "\nwithin the bounds" in format_agreement(same, "float32")


@pytest.mark.parametrize(
    ("same_labels", "pq", "is_kept"),
    [(99.0, 50.3, True), (98.99, 50.0, False), (100.0, 49.69, False), (100.0, 50.31, False)],
)
def test_both_bounds_count(same_labels, pq, is_kept):
    pairs = (50.0, pq), (50.0, 50.0), (50.0, 50.0)
    assert Agreement(1, same_labels, 4, 0, 0, *pairs).is_kept is is_kept


def test_bounds_that_were_kept_by_nothing_say_so():
    pairs = (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)
    text = format_agreement(Agreement(1, 100.0, 0, 0, 0, *pairs), "bfloat16")
    assert "\nno match: PQ says nothing, expected trained weights\nwithin the bounds" in text


def test_what_does_not_fit_the_truth_is_refused(truth):
    model = predicting({7: 4})
    (truth.folder / "7.png").unlink()
    with pytest.raises(InputError, match=r"7\.png"):
        compare_models(model, model, LOADER[:1], truth, METADATA)
