"""Results in COCO's formats: as Detectron2 writes them, and as untouched panopticapi reads them."""

import contextlib
import io
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import rgb2id
from PIL import Image

from ocr_panoptic.data.panoptic_json import load_panoptic_json, write_panoptic_png
from ocr_panoptic.data.register import NO_THINGS, panoptic_metadata
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.results import (
    instance_results,
    panoptic_annotation,
    result_categories,
)

THINGS, STUFF = {3: 0, 17: 1}, {0: 0, 90: 1, 95: 2}


def make_metadata(**fields):
    return Metadata(name="animals").set(
        thing_classes=["cat", "dog"],
        thing_dataset_id_to_contiguous_id=THINGS,
        stuff_classes=["things", "grass", "sky"],
        stuff_colors=[(0, 0, 0), (0, 255, 0), (0, 0, 255)],
        stuff_dataset_id_to_contiguous_id=STUFF,
        **fields,
    )


def thing(segment_id, label, **fields):
    return {"id": segment_id, "isthing": True, "category_id": label, **fields}


def stuff(segment_id, label, **fields):
    return {"id": segment_id, "isthing": False, "category_id": label, **fields}


def test_ids_are_the_data_sets_and_empty_segments_are_gone():
    panoptic_map = torch.tensor([[0, 1, 1], [3, 3, 7]], dtype=torch.int32)
    given_map = panoptic_map.clone()
    segments = [
        thing(1, 1, score=np.float32(0.75), instance_id=4),
        thing(2, 0, score=0.5),
        stuff(3, 2, area=99),
    ]
    ids, annotation = panoptic_annotation(panoptic_map, segments, make_metadata(), 5, "a/b.png")
    # 7 is in no list: void.
    assert ids.tolist() == [[0, 1, 1], [3, 3, 0]]
    assert ids.dtype == np.int32
    assert annotation == {
        "image_id": 5,
        "file_name": "a/b.png",
        "segments_info": [
            {"id": 1, "category_id": 17, "area": 2, "iscrowd": 0, "score": 0.75},
            {"id": 3, "category_id": 95, "area": 2, "iscrowd": 0},
        ],
    }
    json.dumps(annotation, allow_nan=False)
    assert torch.equal(panoptic_map, given_map)
    assert segments[0]["category_id"] == 1


def detectron2s_predictions(output, image_id, file_name, **fields):
    name = "results_like_detectron2s"
    metadata = make_metadata(**fields)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        **{key: value for key, value in metadata.as_dict().items() if key != "name"}
    )
    evaluator = COCOPanopticEvaluator(name)
    evaluator.reset()
    evaluator.process([{"file_name": file_name, "image_id": image_id}], [{"panoptic_seg": output}])
    MetadataCatalog.pop(name)
    return evaluator._predictions[0]


@pytest.mark.parametrize("kind", ["merged", "labels", "ids of the data set"])
def test_is_what_detectron2s_evaluator_writes(kind):
    generator = np.random.default_rng(0)
    fields = {}
    if kind == "labels":
        # category * divisor + instance, and -1 for void, as in Panoptic-DeepLab. In such data sets
        # a class of things and one of stuff have different numbers.
        fields = {"label_divisor": 1000}
        labels = torch.from_numpy(generator.choice([-1, 0, 1, 1001, 1002, 2000], (9, 11)))
        output = labels, None
    else:
        ids = torch.from_numpy(generator.integers(0, 4, (9, 11)).astype(np.int32))
        output = ids, [thing(1, 0), thing(2, 1), stuff(3, 2)]
        if kind == "ids of the data set":
            output = ids, [{"id": 1, "category_id": 3}, {"id": 2, "category_id": 17}]
            output[0][ids == 3] = 0
    copied = output[0].clone(), output[1] and [dict(segment) for segment in output[1]]
    theirs = detectron2s_predictions(copied, 5, "x/a.jpg", **fields)
    ids, annotation = panoptic_annotation(*output, make_metadata(**fields), 5, "a.png")
    with Image.open(io.BytesIO(theirs["png_string"])) as png:
        np.testing.assert_array_equal(ids, rgb2id(np.asarray(png)))
    assert annotation["image_id"] == theirs["image_id"]
    assert annotation["file_name"] == theirs["file_name"]
    assert [(row["id"], row["category_id"]) for row in annotation["segments_info"]] == [
        (row["id"], row["category_id"]) for row in theirs["segments_info"]
    ]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ids=st.lists(st.integers(1, 256**3 - 1), min_size=1, max_size=8, unique=True),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_scored_against_itself_by_panopticapi_it_is_100(seed, ids, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    generator, metadata = np.random.default_rng(seed), make_metadata()
    (folder / "pngs").mkdir()
    images, annotations = [], []
    for image_id in (1, 2):
        # At least one pixel of a segment; some segments have none, and some pixels no segment.
        panoptic_map = generator.choice([0, 12345, *ids], size)
        panoptic_map[0, 0] = ids[0]
        segments = [
            thing(i, generator.integers(2)) if generator.random() < 0.5 else stuff(i, 1 + i % 2)
            for i in ids
        ]
        name = f"{image_id}.png"
        segment_ids, annotation = panoptic_annotation(
            panoptic_map, segments, metadata, image_id, name
        )
        write_panoptic_png(folder / "pngs" / name, segment_ids)
        annotations.append(annotation)
        image = {"id": image_id, "file_name": f"{image_id}.jpg"}
        images.append({**image, "height": size[0], "width": size[1]})
    path = folder / "panoptic.json"
    content = {"images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": result_categories(metadata)}))
    # It is a ground truth too, by our own reader.
    read = load_panoptic_json(path)
    categories = {category["id"]: category for category in read["categories"]}
    pairs = list(zip(read["annotations"], json.loads(path.read_text())["annotations"], strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        counts = pq_compute_single_core(0, pairs, folder / "pngs", folder / "pngs", categories)
    assert isinstance(counts, PQStat)
    scores, _ = counts.pq_average(categories, isthing=None)
    used = {row["category_id"] for annotation in annotations for row in annotation["segments_info"]}
    assert scores == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": len(used)}


def test_instances_are_coco_results():
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, 1:4, 2:7] = True
    instances = Instances((6, 8))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 1.0, 7.0, 4.0], [0.5, 0.0, 3.0, 2.0]]))
    instances.scores = torch.tensor([0.75, 0.5])
    instances.pred_classes = torch.tensor([1, 0])
    instances.pred_masks = torch.from_numpy(masks)
    results = json.loads(json.dumps(instance_results(instances, make_metadata(), 12)))
    assert [result["category_id"] for result in results] == [17, 3]
    assert [result["image_id"] for result in results] == [12, 12]
    assert [result["score"] for result in results] == [0.75, 0.5]
    assert [result["bbox"] for result in results] == [[2, 1, 5, 3], [0.5, 0, 2.5, 2]]
    for result, mask in zip(results, masks, strict=True):
        np.testing.assert_array_equal(mask_util.decode(result["segmentation"]), mask)
    boxes = instances[:]
    boxes.remove("pred_masks")
    assert "segmentation" not in instance_results(boxes, make_metadata(), 12)[0]
    assert instance_results(instances[:0], make_metadata(), 12) == []


def test_categories_are_those_of_the_data_set():
    assert result_categories(make_metadata()) == [
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 17, "name": "dog", "isthing": 1},
        {"id": 90, "name": "grass", "isthing": 0, "color": [0, 255, 0]},
        {"id": 95, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
    ]


@pytest.mark.parametrize(
    ("name", "count", "things"),
    [
        ("coco_2017_val_panoptic_separated", 133, 80),
        ("coco_2017_val_panoptic", 133, 80),
        ("coco_2017_val", 80, 80),
        ("cityscapes_fine_panoptic_val", 19, 8),
        ("shapes_easy_val_panoptic_separated", 12, 6),
    ],
)
def test_categories_of_registered_data_sets(name, count, things):
    categories = result_categories(MetadataCatalog.get(name))
    assert len(categories) == count
    assert sum(category["isthing"] for category in categories) == things
    assert [category["id"] for category in categories] == sorted({c["id"] for c in categories})


def test_the_thing_class_of_a_data_set_without_things_is_none_of_its_categories():
    rows = [{"id": number, "name": f"stuff {number}", "isthing": 0} for number in (7, 300)]
    metadata = Metadata().set(**panoptic_metadata(rows))
    assert metadata.thing_classes == [NO_THINGS]
    categories = result_categories(metadata)
    assert [{key: row[key] for key in rows[0]} for row in categories] == rows


def test_what_the_data_set_does_not_have_is_named():
    metadata = make_metadata()
    ones = np.ones((2, 2), dtype=np.int32)
    for segment, message in (
        (thing(1, 2), "dataset animals: has no thing class 2, which the model predicts; expected"),
        (stuff(1, 3), "dataset animals: has no stuff class 3, which .* with its 3 stuff classes"),
    ):
        with pytest.raises(InputError, match=message):
            panoptic_annotation(ones, [segment], metadata, 1, "a.png")
    with pytest.raises(InputError, match="dataset animals: its metadata has no label_divisor"):
        panoptic_annotation(ones, None, metadata, 1, "a.png")
