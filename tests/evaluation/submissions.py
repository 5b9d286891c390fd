"""Predictions and ground truth of four small images, and zips that are taken apart."""

import json
import zipfile

import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as mask_api

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 44, "name": "bottle", "isthing": 1},
    {"id": 90, "name": "toothbrush", "isthing": 1},
    {"id": 200, "name": "rug", "isthing": 0},
]
THINGS = [1, 44, 90]
IMAGES = [
    {"id": 30, "file_name": "000000000030.jpg", "height": 24, "width": 30},
    {"id": 7, "file_name": "000000000007.jpg", "height": 20, "width": 33},
    {"id": 9, "file_name": "000000000009.jpg", "height": 31, "width": 17},
    {"id": 100, "file_name": "000000000100.jpg", "height": 16, "width": 16},
]
NAMES = {
    "panoptic": "panoptic_val2017_ocr_results",
    "segm": "detections_val2017_ocr_results",
    "bbox": "detections_val2017_ocr_results",
}


def rle(mask):
    """Return a mask's compressed RLE as jsons hold it."""
    encoded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def write_data(root):
    """Write ground truth, and predictions that are partly right, below ``root``.

    ``panoptic_val2017.json`` with its PNGs, ``instances_val2017.json``, and in ``predictions`` what
    predict.py writes.
    """
    generator = np.random.default_rng(0)
    predictions = root / "predictions"
    for folder in (root / "panoptic_val2017", predictions / "panoptic"):
        folder.mkdir(parents=True)
    truth, predicted, instances, detections = [], [], [], []
    for image in IMAGES:
        height, width = image["height"], image["width"]
        ids = np.zeros((height, width), np.int64)
        ids[2:] = 900_000
        rows = [{"id": 900_000, "category_id": 200, "iscrowd": 0}]
        for number in range(3):
            y, x = generator.integers(0, (height - 9, width - 9))
            ids[y : y + 9, x : x + 8] = number + 1
            category = THINGS[int(generator.integers(3))]
            rows.append({"id": number + 1, "category_id": category, "iscrowd": int(number == 2)})
        present = [row for row in rows if (ids == row["id"]).any()]
        for row in present:
            row["area"] = int((ids == row["id"]).sum())
        png = image["file_name"].replace("jpg", "png")
        Image.fromarray(id2rgb(ids)).save(root / "panoptic_val2017" / png)
        truth.append({"image_id": image["id"], "file_name": png, "segments_info": present})
        moved = np.roll(ids, (1, 1), (0, 1)) * 3
        Image.fromarray(id2rgb(moved)).save(predictions / "panoptic" / png)
        segments = [
            {"id": 3 * row["id"], "category_id": row["category_id"], "area": row["area"]}
            for row in present
        ]
        predicted.append({"image_id": image["id"], "file_name": png, "segments_info": segments})
        for row in present[1:]:
            mask = ids == row["id"]
            instances.append(
                {
                    **row,
                    "id": len(instances) + 1,
                    "image_id": image["id"],
                    "segmentation": rle(mask),
                    "bbox": mask_api.toBbox(mask_api.encode(np.asfortranarray(mask * np.uint8(1)))),
                }
            )
            instances[-1]["bbox"] = instances[-1]["bbox"].tolist()
            for _ in range(4 if image["id"] != 100 else 0):
                box = np.float32(instances[-1]["bbox"]) + generator.random(4, np.float32) * 2
                shift = generator.integers(-2, 3, 2)
                detections.append(
                    {
                        "image_id": image["id"],
                        "category_id": row["category_id"],
                        "bbox": box.tolist(),
                        # Ties, near ties, and as float32 says them.
                        "score": float(np.float32(round(generator.random(), 1) + 1e-7)),
                        "segmentation": rle(np.roll(mask, shift, (0, 1))),
                    }
                )
    generator.shuffle(detections)
    header = {"images": IMAGES, "categories": CATEGORIES}
    for path, data in (
        (root / "panoptic_val2017.json", {**header, "annotations": truth}),
        (root / "instances_val2017.json", {**header, "annotations": instances}),
        (predictions / "panoptic.json", {"annotations": predicted}),
        (predictions / "instances.json", detections),
    ):
        path.write_text(json.dumps(data))


def read_zip(path):
    """Return name -> content of the entries, in their order."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, entries):
    """Write a zip of name (or ZipInfo) -> content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path
