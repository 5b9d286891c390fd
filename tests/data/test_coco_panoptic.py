"""Deriving semantic PNGs and instances from panoptic ground truth, and what bad input is told."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools.coco import COCO

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic, semantic_labels
from ocr_panoptic.errors import InputError

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_coco_panoptic.py"

# Neither contiguous nor sorted, and with an id 0: labels follow the order of the ids.
CATEGORIES = [
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 0, "name": "grass", "isthing": 0},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 12, "name": "road", "isthing": 0},
]
LABELS = {0: 1, 12: 2, 90: 3, 3: 0, 7: 0}


class Scene:
    """Two images under a folder in the layout of COCO, which a test may spoil and save again."""

    def __init__(self, folder):
        self.json_path = folder / "annotations" / "panoptic_val.json"
        self.root = folder / "panoptic_val"
        self.semantic_root = folder / "panoptic_stuff_val"
        self.instances_json = folder / "annotations" / "instances_val.json"
        self.json_path.parent.mkdir()
        self.root.mkdir()
        rng = np.random.default_rng(0)
        # Scattered ids, so that every segment has holes and parts; the last image ends in void.
        self.id_maps = {
            8: rng.choice([0, 5, 70000, 256**3 - 1], size=(6, 9)),
            2: np.where(np.arange(20).reshape(5, 4) < 14, 300, 0),
        }
        segments = {
            8: [(70000, 7, 0), (5, 90, 0), (256**3 - 1, 3, 1)],
            2: [(300, 0, 0)],
        }
        self.data = {
            "info": {"year": 2017},
            "images": [
                {"id": i, "file_name": f"{i}.jpg", "height": m.shape[0], "width": m.shape[1]}
                for i, m in self.id_maps.items()
            ],
            "annotations": [
                {
                    "image_id": i,
                    "file_name": f"{i}.png",
                    "segments_info": [
                        {"id": s, "category_id": c, "iscrowd": k} for s, c, k in segments[i]
                    ],
                }
                for i in self.id_maps
            ],
            "categories": CATEGORIES,
        }
        self.save()

    def save(self):
        self.json_path.write_text(json.dumps(self.data))
        for image_id, id_map in self.id_maps.items():
            Image.fromarray(id2rgb(id_map)).save(self.png(image_id))

    def png(self, image_id):
        return self.root / f"{image_id}.png"

    def prepare(self, **kwargs):
        return prepare_coco_panoptic(self.json_path, self.root, num_processes=1, **kwargs)

    def arguments(self, *more):
        return ["--panoptic-json", str(self.json_path), "--panoptic-root", str(self.root), *more]

    def outputs(self):
        """Whatever lies beside the inputs, partial outputs included."""
        inputs = {self.json_path, self.root}
        beside = [*self.root.parent.iterdir(), *self.json_path.parent.iterdir()]
        return sorted(set(beside) - inputs - {self.json_path.parent})


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("prepare_coco_panoptic", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def error_of(scene):
    """Return the one-line error of a refused preparation, which must leave nothing behind."""
    with pytest.raises(InputError) as caught:
        scene.prepare()
    assert scene.outputs() == []
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_semantic_pngs_equal_a_loop_over_pixels(scene):
    made = scene.prepare()
    assert made.num_sem_seg_classes == 4
    assert sorted(path.name for path in scene.semantic_root.iterdir()) == ["2.png", "8.png"]
    for annotation in scene.data["annotations"]:
        id_map = scene.id_maps[annotation["image_id"]]
        with Image.open(scene.semantic_root / annotation["file_name"]) as image:
            assert image.mode == "L"
            semantic = np.asarray(image)
        category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        for y in range(id_map.shape[0]):
            for x in range(id_map.shape[1]):
                segment = id_map[y, x]
                assert semantic[y, x] == (255 if segment == 0 else LABELS[category[segment]])


def test_instances_equal_a_loop_over_pixels(scene):
    made = scene.prepare()
    data = json.loads(scene.instances_json.read_text())
    assert data["images"] == scene.data["images"]
    assert data["info"] == scene.data["info"]
    assert [category["id"] for category in data["categories"]] == [7, 3]
    assert made.num_instances == 2
    assert made.num_thing_classes == 2
    assert sorted(row["id"] for row in data["annotations"]) == [1, 2]
    expected = {7: (70000, 0), 3: (256**3 - 1, 1)}
    for row in data["annotations"]:
        segment, crowd = expected.pop(row["category_id"])
        pixels = [(x, y) for y in range(6) for x in range(9) if scene.id_maps[8][y, x] == segment]
        xs, ys = zip(*pixels, strict=True)
        left, top = min(xs), min(ys)
        assert row["bbox"] == [left, top, max(xs) - left + 1, max(ys) - top + 1]
        assert row["area"] == len(pixels)
        assert row["iscrowd"] == crowd
        assert row["image_id"] == 8
        assert isinstance(row["segmentation"]["counts"], str)
        ys, xs = np.nonzero(mask_util.decode(row["segmentation"]))
        assert set(zip(xs, ys, strict=True)) == set(pixels)
    assert not expected


def test_pycocotools_reads_the_instances(scene, capsys):
    scene.prepare()
    coco = COCO(str(scene.instances_json))
    assert coco.getAnnIds(imgIds=[8], iscrowd=True) == [2]
    assert coco.annToMask(coco.anns[1]).sum() == coco.anns[1]["area"]


def test_result_does_not_depend_on_the_number_of_processes(scene, children):
    scene.prepare()
    one = scene.instances_json.read_bytes()
    prepare_coco_panoptic(scene.json_path, scene.root, overwrite=True, num_processes=2)
    assert scene.instances_json.read_bytes() == one
    assert not children()


def test_coco_has_54_semantic_classes():
    categories = [{"id": 200 - i, "isthing": int(i >= 53)} for i in range(133)]
    labels = semantic_labels(categories)
    assert sorted(set(labels.values())) == list(range(54))
    assert [labels[148], labels[200], labels[147]] == [1, 53, 0]


@pytest.mark.parametrize(("isthing", "values"), [(1, {0, 255}), (0, {1, 2, 3, 5, 255})])
def test_things_only_and_stuff_only(scene, isthing, values):
    scene.data["categories"] = [{**category, "isthing": isthing} for category in CATEGORIES]
    scene.save()
    made = scene.prepare()
    assert made.num_sem_seg_classes == (1 if isthing else 6)
    assert made.num_instances == (4 if isthing else 0)
    found = set()
    for path in scene.semantic_root.iterdir():
        with Image.open(path) as image:
            found |= set(np.unique(np.asarray(image)).tolist())
    assert found == values


def test_semantic_pngs_are_named_after_the_images(scene):
    scene.data["images"][0]["file_name"] = "city/8_left.jpg"
    scene.data["annotations"][0]["file_name"] = "8_panoptic.png"
    scene.save()
    scene.png(8).rename(scene.root / "8_panoptic.png")
    scene.prepare()
    names = [path.relative_to(scene.semantic_root) for path in scene.semantic_root.rglob("*.png")]
    assert sorted(map(str, names)) == ["2.png", "city/8_left.png"]


# What is asked of outputs.


def test_one_existing_output_is_left_and_the_other_made(scene, main, capsys):
    scene.instances_json.write_text("COCO's own")
    assert main(scene.arguments()) == 0
    assert scene.instances_json.read_text() == "COCO's own"
    assert len(list(scene.semantic_root.iterdir())) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"{scene.instances_json}: exists, left as it is (--overwrite makes it again)" in lines

    scene.instances_json.unlink()
    (scene.semantic_root / "8.png").write_text("mine")
    assert main(scene.arguments()) == 0
    assert (scene.semantic_root / "8.png").read_text() == "mine"
    assert scene.instances_json.is_file()
    lines = capsys.readouterr().out.splitlines()
    assert f"{scene.semantic_root}: exists, left as it is (--overwrite makes it again)" in lines
    assert lines[-1] == "config: MODEL.SEM_SEG_HEAD.NUM_CLASSES 4 MODEL.ROI_HEADS.NUM_CLASSES 2"


def test_two_existing_outputs_need_overwrite(scene, main, capsys):
    assert main(scene.arguments()) == 0
    (scene.semantic_root / "left_over.png").write_text("")
    scene.instances_json.write_text("mine")
    capsys.readouterr()
    assert main(scene.arguments()) == 2
    assert capsys.readouterr().err == (
        f"error: {scene.semantic_root} and {scene.instances_json} exist; expected other names"
        " or --overwrite\n"
    )
    assert scene.instances_json.read_text() == "mine"
    assert main(scene.arguments("--overwrite")) == 0
    assert len(list(scene.semantic_root.iterdir())) == 2
    assert json.loads(scene.instances_json.read_text())["annotations"]
    assert scene.outputs() == sorted([scene.semantic_root, scene.instances_json])


def test_overwrite_never_removes_a_folder_of_other_files(scene):
    scene.semantic_root.mkdir()
    (scene.semantic_root / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt: expected only PNGs in a folder that --over"):
        scene.prepare(overwrite=True)
    assert (scene.semantic_root / "notes.txt").read_text() == "mine"


def test_a_failed_overwrite_keeps_what_was_there(scene):
    scene.prepare()
    before = scene.instances_json.read_bytes()
    scene.png(2).unlink()
    with pytest.raises(InputError, match="No such file"):
        scene.prepare(overwrite=True)
    assert scene.instances_json.read_bytes() == before
    assert scene.outputs() == sorted([scene.semantic_root, scene.instances_json])


def test_outputs_go_through_links(scene, tmp_path):
    elsewhere = tmp_path / "disk" / "semantic"
    elsewhere.mkdir(parents=True)
    scene.semantic_root.symlink_to(elsewhere)
    scene.prepare()
    assert scene.semantic_root.is_symlink()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["2.png", "8.png"]


def test_interrupt_leaves_nothing(scene, monkeypatch, children):
    def interrupted(*args, **kwargs):
        yield [], []
        raise KeyboardInterrupt

    monkeypatch.setattr("ocr_panoptic.parallel.tqdm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scene.prepare()
    assert scene.outputs() == []
    assert not children()


def test_outputs_may_not_replace_inputs(scene):
    with pytest.raises(InputError, match="holds the panoptic PNGs; expected another"):
        scene.prepare(semantic_root=scene.root)
    with pytest.raises(InputError, match="holds the panoptic PNGs; expected another"):
        scene.prepare(semantic_root=scene.root.parent)
    with pytest.raises(InputError, match="is the panoptic json; expected another"):
        scene.prepare(instances_json=scene.json_path)
    with pytest.raises(InputError, match="is a file; expected a folder"):
        scene.prepare(semantic_root=scene.json_path)
    with pytest.raises(InputError, match="is a folder; expected a json file"):
        scene.prepare(instances_json=scene.root)


def test_outputs_need_a_place(scene):
    with pytest.raises(InputError, match=r"--semantic-root: .*, expected a folder to write to"):
        scene.prepare(semantic_root=scene.json_path / "new" / "semantic")
    with pytest.raises(InputError, match=r"--instances-json: .*, expected a folder to write to"):
        scene.prepare(instances_json=scene.json_path / "new" / "instances.json")


def test_names_without_panoptic_ask_for_the_flags(scene, main, capsys, tmp_path):
    scene.root = scene.root.rename(tmp_path / "labels")
    assert main(scene.arguments()) == 2
    assert capsys.readouterr().err == (
        f"error: {scene.root}: its name has no 'panoptic_' to derive another from;"
        " give --semantic-root\n"
    )
    scene.json_path = scene.json_path.rename(tmp_path / "all.json")
    semantic, instances = tmp_path / "new" / "semantic", tmp_path / "new" / "instances.json"
    assert main(scene.arguments("--semantic-root", str(semantic))) == 2
    assert capsys.readouterr().err.endswith("give --instances-json\n")
    given = ["--semantic-root", str(semantic), "--instances-json", str(instances)]
    assert main(scene.arguments(*given)) == 0
    assert instances.is_file()


def test_subprocess_answers_with_one_line(scene):
    scene.png(8).unlink()
    command = [sys.executable, str(SCRIPT), *scene.arguments("--num-processes", "2")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {scene.png(8)}: No such file or directory; expected a panoptic PNG\n"
    )
    assert result.stdout == ""
    assert scene.outputs() == []


def test_bad_arguments_are_told_in_one_line(scene, main, capsys):
    assert main(scene.arguments("--num-processes", "many")) == 2
    expected = "error: argument --num-processes: invalid int value: 'many'\n"
    assert capsys.readouterr().err == expected
    assert main([]) == 2
    assert "required: --panoptic-json, --panoptic-root" in capsys.readouterr().err


def test_number_of_processes_is_checked(scene):
    with pytest.raises(InputError, match="number of processes is 0; expected at least 1"):
        prepare_coco_panoptic(scene.json_path, scene.root, num_processes=0)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("x" * 300 + ".jpg", "2.jpg"), "File name too long"),
        (("y" * 300 + "/1.jpg", "2.jpg"), "File name too long"),
        # The PNG of one image, and the folder of the other's.
        (("8.jpg", "8.png/2.jpg"), "Is a directory"),
    ],
)
def test_names_that_no_png_can_have(scene, names, reason):
    for image, name in zip(scene.data["images"], names, strict=True):
        image["file_name"] = name
    scene.save()
    assert f"{reason}; expected to write it (semantic PNGs have the names of" in error_of(scene)


# What is asked of PNGs.


def test_missing_folder(scene):
    scene.root.rename(scene.root.with_name("moved"))
    with pytest.raises(InputError, match="panoptic_val: no such folder; expected the panoptic PNG"):
        scene.prepare()


@pytest.mark.parametrize("kept", [20, 40, -30])
def test_truncated_png(scene, kept):
    scene.png(8).write_bytes(scene.png(8).read_bytes()[:kept])
    message = error_of(scene)
    assert message.startswith(f"{scene.png(8)}: truncated or broken PNG (")
    assert message.endswith("; expected a whole file")


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("L", "8-bit greyscale PNG"),
        ("P", "1-bit palette PNG"),
        ("RGBA", "8-bit RGBA PNG"),
        ("I;16", "16-bit greyscale PNG"),
    ],
)
def test_png_of_another_kind(scene, mode, found):
    Image.new(mode, (9, 6)).save(scene.png(8))
    assert error_of(scene) == f"{scene.png(8)}: {found}; expected 8-bit RGB"


def test_16_bit_rgb_and_no_png(scene):
    content = bytearray(scene.png(8).read_bytes())
    content[24] = 16
    scene.png(8).write_bytes(content)
    assert error_of(scene) == f"{scene.png(8)}: 16-bit RGB PNG; expected 8-bit RGB"
    Image.new("RGB", (9, 6)).save(scene.png(8), format="JPEG")
    assert error_of(scene) == f"{scene.png(8)}: not a PNG; expected an 8-bit RGB PNG"


@pytest.mark.parametrize("stray", [1, 256**3 - 2])
def test_id_that_only_the_png_has(scene, stray):
    scene.id_maps[8][3, 3] = stray
    scene.save()
    assert error_of(scene) == (
        f"{scene.png(8)}: pixels with id {stray}; expected 0 or an id in the segments_info of"
        f" image_id 8 in {scene.json_path}"
    )


def test_id_that_only_the_json_has(scene):
    scene.id_maps[8][scene.id_maps[8] == 5] = 0
    scene.save()
    assert error_of(scene) == (
        f"{scene.png(8)}: no pixel with id 5; expected at least one, as it is in the segments_info"
        f" of image_id 8 in {scene.json_path}"
    )


def test_png_of_another_size(scene):
    scene.data["images"][0]["width"] = 10
    scene.save()
    assert error_of(scene) == (
        f"{scene.png(8)}: 9x6 pixels; expected 10x6, as image id 8 has in {scene.json_path}"
    )


# What is asked of the json.


def test_json_missing_or_broken(scene):
    text = scene.json_path.read_text()
    scene.json_path.write_text(text[:-5])
    assert error_of(scene).startswith(f"{scene.json_path}: broken json (")
    scene.json_path.write_text("[1]")
    assert error_of(scene) == (
        f"{scene.json_path}: a json list; expected an object with images, annotations, categories"
    )
    scene.json_path.unlink()
    assert "No such file or directory; expected a json file" in error_of(scene)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_json_without_a_list(scene, key):
    lists = "expected the COCO lists images, annotations, categories"
    scene.data[key] = 3
    scene.save()
    assert error_of(scene) == f"{scene.json_path}: '{key}' is no list of objects; {lists}"
    del scene.data[key]
    scene.save()
    assert error_of(scene) == f"{scene.json_path}: '{key}' is missing; {lists}"


def test_too_many_stuff_classes(scene):
    scene.data["categories"] = [{"id": i, "name": f"{i}", "isthing": 0} for i in range(255)]
    scene.save()
    assert error_of(scene) == (
        f"{scene.json_path}: 255 stuff classes; expected at most 254, as labels have 8 bits and 255"
        " marks unlabelled pixels"
    )


DELETE = object()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("categories", 0, "isthing"),
            DELETE,
            "category id 90: 'isthing' is missing; expected 0 or 1 (a panoptic json, not an"
            " instances or image_info json)",
        ),
        (("categories", 0, "isthing"), "no", "category id 90: 'isthing' is 'no'; expected 0 or 1"),
        (("categories", 0, "name"), DELETE, "category id 90: 'name' is missing; expected text"),
        (("categories", 0, "id"), 7, "categories: 'id' 7 occurs twice; expected unique ids"),
        (("images", 0, "id"), "8", "images[0]: 'id' is '8'; expected an integer"),
        (("images", 0, "file_name"), 8, "image id 8: 'file_name' is 8; expected text"),
        (
            ("images", 0, "height"),
            DELETE,
            "image id 8: 'height' is None; expected pixels, at least 1",
        ),
        (
            ("annotations", 0, "image_id"),
            5,
            "annotation of image_id 5; expected an id in 'images'",
        ),
        (
            ("annotations", 0),
            DELETE,
            "image id 8 (8.jpg) has no annotation; expected one for each image",
        ),
        (
            ("annotations", 0, "file_name"),
            "../8.png",
            "annotation of image_id 8: 'file_name' is '../8.png'; expected a path within its"
            " folder",
        ),
        (
            ("images", 0, "file_name"),
            "/8.jpg",
            "image id 8: 'file_name' is '/8.jpg'; expected a path within its folder",
        ),
        (
            ("images", 0, "file_name"),
            "2.jpeg",
            "image id 2: 'file_name' 2.jpg occurs twice, but for its suffix; expected unique names",
        ),
        (
            ("annotations", 0, "segments_info"),
            None,
            "annotation of image_id 8: no 'segments_info'; expected a list of objects",
        ),
        (
            ("annotations", 0, "segments_info", 1, "id"),
            0,
            "annotation of image_id 8: segment id 0; expected 1 to 16777215 (0 is void)",
        ),
        (
            ("annotations", 0, "segments_info", 1, "category_id"),
            999,
            "annotation of image_id 8: segment id 5: category_id 999; expected one of the 5 ids in"
            " 'categories'",
        ),
        (
            ("annotations", 0, "segments_info", 1, "iscrowd"),
            "yes",
            "annotation of image_id 8: segment id 5: 'iscrowd' is 'yes'; expected 0 or 1",
        ),
    ],
)
def test_field_of_the_json(scene, place, value, message):
    scene.data = json.loads(json.dumps(scene.data))
    *path, last = place
    holder = scene.data
    for key in path:
        holder = holder[key]
    if value is DELETE:
        del holder[last]
    else:
        holder[last] = value
    scene.save()
    assert error_of(scene).startswith(f"{scene.json_path}: {message}")


def test_json_without_images(scene):
    scene.data["images"] = scene.data["annotations"] = []
    scene.save()
    assert error_of(scene).endswith("'annotations' is empty; expected one for each image")
