"""A small panoptic data set that a test can spoil and check."""

import json

import numpy as np
from PIL import Image

from ocr_panoptic.data.panoptic_json import write_panoptic_png

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 0, "name": "grass", "isthing": 0},
]


def described(id_map, category_of, crowds=()):
    """Return the segments_info of an id map, counted by loops over pixels."""
    segments = []
    for segment_id, category_id in category_of.items():
        pixels = [
            (x, y)
            for y in range(id_map.shape[0])
            for x in range(id_map.shape[1])
            if id_map[y, x] == segment_id
        ]
        xs, ys = zip(*pixels, strict=True)
        segments.append(
            {
                "id": segment_id,
                "category_id": category_id,
                "iscrowd": int(segment_id in crowds),
                "area": len(pixels),
                "bbox": [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1],
            }
        )
    return segments


class PanopticSet:
    """Two images, ids 8 and 2, under a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.json_path = folder / "panoptic_val.json"
        self.panoptic_root = folder / "panoptic_val"
        self.image_root = folder / "val"
        rng = np.random.default_rng(0)
        self.id_maps = {
            8: rng.choice([0, 5, 70000, 256**3 - 1], size=(16, 24)),
            2: np.where(np.arange(300).reshape(15, 20) < 200, 300, 0),
        }
        segments = {
            8: described(self.id_maps[8], {70000: 7, 5: 90, 256**3 - 1: 3}, {256**3 - 1}),
            2: described(self.id_maps[2], {300: 0}),
        }
        self.data = {
            "images": [
                {"id": i, "file_name": f"{i}.jpg", "height": m.shape[0], "width": m.shape[1]}
                for i, m in self.id_maps.items()
            ],
            "annotations": [
                {"image_id": i, "file_name": f"{i}.png", "segments_info": segments[i]}
                for i in self.id_maps
            ],
            "categories": [dict(category) for category in CATEGORIES],
        }
        self.image_root.mkdir(parents=True)
        self.save()
        for image_id, id_map in self.id_maps.items():
            write_panoptic_png(self.png(image_id), id_map)
            noise = rng.integers(0, 256, (*id_map.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.image(image_id))

    def save(self):
        self.json_path.write_text(json.dumps(self.data))

    def png(self, image_id):
        return self.panoptic_root / f"{image_id}.png"

    def image(self, image_id):
        return self.image_root / f"{image_id}.jpg"

    @property
    def paths(self):
        return self.json_path, self.panoptic_root, self.image_root

    @property
    def segments(self):
        """The segments_info of image 8: a thing 70000, stuff 5, a crowd 2**24 - 1."""
        return self.data["annotations"][0]["segments_info"]
