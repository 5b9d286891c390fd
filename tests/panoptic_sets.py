"""Small panoptic data sets for tests, written file by file."""

import json
from pathlib import Path

import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image

# Neither contiguous nor sorted, stuff with id 0, a colour in some.
SPARSE = [
    {"id": 90, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 0, "name": "grass", "isthing": 0},
    {"id": 3, "name": "dog", "isthing": 1, "color": [200, 100, 0]},
]
STUFF = [category for category in SPARSE if not category["isthing"]]
THINGS = [category for category in SPARSE if category["isthing"]]


class PanopticSet:
    """Noise images with a panoptic ground truth of rectangles, which a test may spoil and save."""

    def __init__(self, folder, categories=SPARSE, names=("a.jpg", "b.jpg"), size=(64, 48)):
        self.folder = Path(folder)
        self.image_root = self.folder / "images"
        self.panoptic_root = self.folder / "pngs"
        self.json = self.folder / "truth" / "panoptic.json"
        rng = np.random.default_rng(0)
        width, height = size
        images, annotations, self.id_maps = [], [], {}
        for image_id, name in enumerate(names, start=5):
            # A quarter each, void in the last; ids that need more than one byte.
            ids = np.zeros((height, width), np.int64)
            segments = []
            for position in range(3):
                top, left = height // 2 * (position // 2), width // 2 * (position % 2)
                segment_id = 300 * (position + 1)
                ids[top : top + height // 2, left : left + width // 2] = segment_id
                category = categories[(position + image_id) % len(categories)]
                segments.append({"id": segment_id, "category_id": category["id"]})
            png = str(Path(name).with_suffix(".png"))
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            annotations.append({"image_id": image_id, "file_name": png, "segments_info": segments})
            self.id_maps[png] = ids
            self.write_image(name, rng.integers(0, 255, (height, width, 3), np.uint8))
        self.data = {"images": images, "annotations": annotations}
        # Its own: a test may change them.
        self.data["categories"] = [dict(category) for category in categories]
        self.save()

    def write_image(self, name, pixels):
        path = self.image_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def save(self):
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps(self.data))
        for name, ids in self.id_maps.items():
            path = self.panoptic_root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(id2rgb(ids)).save(path)

    def entry(self, name):
        """Return an entry of DATASETS.CUSTOM."""
        return {
            "NAME": name,
            "IMAGE_ROOT": str(self.image_root),
            "PANOPTIC_JSON": str(self.json),
            "PANOPTIC_ROOT": str(self.panoptic_root),
        }

    @property
    def arguments(self):
        return self.image_root, self.json, self.panoptic_root
