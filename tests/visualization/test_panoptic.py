import numpy as np
import pytest
from detectron2.data import Metadata
from panopticapi.utils import id2rgb
from PIL import Image

from ocr_panoptic.errors import InputError
from ocr_panoptic.visualization.panoptic import draw_panoptic, from_ground_truth, legend

GREEN, RED, BLUE = (40, 160, 60), (200, 40, 40), (40, 80, 220)


@pytest.fixture
def metadata():
    return Metadata(name="two things, two stuff").set(
        thing_classes=["cat", "dog"],
        thing_colors=[RED, BLUE],
        thing_dataset_id_to_contiguous_id={3: 0, 17: 1},
        stuff_classes=["things", "grass", "sky"],
        stuff_colors=[(0, 0, 0), GREEN, (120, 180, 240)],
        stuff_dataset_id_to_contiguous_id={0: 0, 90: 1, 95: 2},
    )


@pytest.fixture
def scene():
    """A 60 x 80 noise image: grass, a cat left, a cat right, a dog, and void in the top rows."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    panoptic_map = np.full((60, 80), 70000, dtype=np.int32)
    panoptic_map[:8] = 0
    panoptic_map[15:35, 5:25] = 9
    panoptic_map[15:35, 50:70] = 4
    panoptic_map[40:56, 20:60] = 5
    segments = [
        {"id": 70000, "category_id": 1, "isthing": False},
        {"id": 4, "category_id": 0, "isthing": True, "score": 0.9},
        {"id": 9, "category_id": 0, "isthing": True, "score": 0.8, "iscrowd": 1},
        {"id": 5, "category_id": 1, "isthing": True},
    ]
    return image, panoptic_map, segments


def blend(image, color, alpha):
    return np.rint((1 - alpha) * image + alpha * np.asarray(color)).astype(int)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_pixels_blend_image_and_class_color(scene, metadata, alpha):
    image, panoptic_map, segments = scene
    picture = draw_panoptic(image, panoptic_map, segments, metadata, alpha=alpha, text=False)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    for rows, columns, color in (
        (slice(18, 32), slice(8, 22), RED),
        (slice(43, 53), slice(23, 57), BLUE),
        (slice(10, 13), slice(3, 77), GREEN),
    ):
        inside = picture[rows, columns].astype(int)
        expected = blend(image[rows, columns].astype(float), color, alpha)
        assert np.abs(inside - expected).max() <= 1


def test_instances_differ_in_lightness_from_left_to_right(scene, metadata):
    image, panoptic_map, segments = scene
    picture = draw_panoptic(image, panoptic_map, segments, metadata, alpha=1, text=False)
    left, right = picture[25, 15], picture[25, 60]
    assert left.tolist() == list(RED)
    assert right.tolist() != list(RED)
    assert int(right.argmax()) == 0
    # Other ids, same places: same colours.
    renamed = np.select([panoptic_map == 9, panoptic_map == 4], [2, 30], panoptic_map)
    ids = {9: 2, 4: 30}
    other = [{**segment, "id": ids.get(segment["id"], segment["id"])} for segment in segments]
    again = draw_panoptic(image, renamed, other[::-1], metadata, alpha=1, text=False)
    np.testing.assert_array_equal(picture, again)


def test_things_are_outlined(scene, metadata):
    image, panoptic_map, segments = scene
    picture = draw_panoptic(image, panoptic_map, segments, metadata, alpha=0, text=False)
    assert picture[15:35, 5].min() > 200
    assert picture[55, 20:60].min() > 200
    np.testing.assert_array_equal(picture[18:32, 8:22], image[18:32, 8:22])


def test_same_input_gives_identical_bytes_whatever_the_global_style(scene, metadata):
    import matplotlib

    first = draw_panoptic(*scene, metadata, scale=2.5)
    np.random.seed(1)
    with matplotlib.rc_context({"font.size": 30, "figure.dpi": 37, "axes.facecolor": "red"}):
        second = draw_panoptic(*scene, metadata, scale=2.5)
    assert first.tobytes() == second.tobytes()


def test_text_changes_only_pixels_under_labels(scene, metadata):
    image, panoptic_map, segments = scene
    plain = draw_panoptic(image, panoptic_map, segments, metadata, scale=4, text=False)
    labelled = draw_panoptic(image, panoptic_map, segments, metadata, scale=4)
    changed = (plain != labelled).any(axis=2)
    assert 0 < changed.mean() < 0.2
    # Every segment has room for its name at this scale.
    for rows, columns in ((15, 5), (15, 50), (40, 20)):
        assert changed[4 * rows : 4 * rows + 64, 4 * columns : 4 * columns + 80].any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.37, 3.0])
def test_scale(scene, metadata, scale):
    image, panoptic_map, segments = scene
    picture = draw_panoptic(
        image, panoptic_map, segments, metadata, alpha=1, scale=scale, text=False
    )
    assert picture.shape == (round(60 * scale), round(80 * scale), 3)
    assert picture[round(25 * scale), round(15 * scale)].tolist() == list(RED)
    assert picture[round(48 * scale), round(40 * scale)].tolist() == list(BLUE)


@pytest.mark.parametrize("scale", [1.3, 2, 3])
def test_one_pixel_survives_enlarging(metadata, scale):
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    panoptic_map = np.ones((20, 20), dtype=np.int32)
    panoptic_map[10, 10] = 2
    segments = [
        {"id": 1, "category_id": 1, "isthing": False},
        {"id": 2, "category_id": 2, "isthing": False},
    ]
    arguments = (image, panoptic_map, segments, metadata)
    picture = draw_panoptic(*arguments, alpha=1, scale=scale, text=False)
    dot = np.flatnonzero(picture[round(10.5 * scale), :, 2] > GREEN[2] + 5)
    assert len(dot) >= 1
    assert abs((dot + 0.5).mean() / scale - 10.5) < 1


def test_void_is_grey_and_hatched(scene, metadata):
    image, panoptic_map, segments = scene
    picture = draw_panoptic(image, panoptic_map, segments, metadata, text=False)
    void = picture[:6].astype(int)
    assert (void[..., 0] == void[..., 1]).all()
    assert (void[..., 0] == void[..., 2]).all()
    flat = draw_panoptic(
        np.full_like(image, 100), np.zeros_like(panoptic_map), [], metadata, text=False
    )
    assert len(np.unique(flat)) == 2


def test_ids_without_a_segment_are_void_and_segments_without_pixels_are_skipped(scene, metadata):
    image, panoptic_map, segments = scene
    extra = {"id": 123, "category_id": 0, "isthing": True}
    full = draw_panoptic(image, panoptic_map, segments, metadata)
    np.testing.assert_array_equal(
        full, draw_panoptic(image, panoptic_map, [extra, *segments], metadata)
    )
    dropped = draw_panoptic(image, panoptic_map, segments[:-1], metadata, text=False)
    inside = dropped[43:53, 23:57]
    assert (inside[..., 0] == inside[..., 1]).all()


def test_no_segments(scene, metadata):
    image, panoptic_map, _ = scene
    picture = draw_panoptic(image, panoptic_map, [], metadata)
    assert (picture[..., 0] == picture[..., 2]).all()
    assert legend([], metadata) == []


@pytest.mark.parametrize("isthing", [True, False])
@pytest.mark.parametrize("category", [-1, 57, 10**6])
def test_unknown_category_has_a_name_and_a_color(scene, metadata, isthing, category):
    image, panoptic_map, segments = scene
    unknown = {"id": 5, "category_id": category, "isthing": isthing}
    picture = draw_panoptic(image, panoptic_map, [*segments[:-1], unknown], metadata, alpha=1)
    ((name, color),) = legend([unknown], metadata)
    assert name == f"id {category}"
    assert picture[43, 23].tolist() == list(color)


def test_class_names_are_not_formulas(scene, metadata):
    names = Metadata(name="formula").set(
        thing_classes=["$x^", "$\\frac{$"], stuff_classes=["things", "a$b$"]
    )
    draw_panoptic(*scene, names, scale=3)


def test_missing_colors_are_replaced_by_distinct_fixed_ones(scene):
    names = Metadata(name="no colours").set(
        thing_classes=["cat", "dog"], stuff_classes=["things", "grass"]
    )
    first, second = legend(scene[2], names), legend(scene[2][::-1], names)
    assert first == second
    assert len({color for _, color in first}) == 3


def test_legend_lists_each_class_once_things_first(scene, metadata):
    assert legend(scene[2], metadata) == [("cat", RED), ("dog", BLUE), ("grass", GREEN)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((60, 80), np.uint8)}, "image must be"),
        ({"image": np.zeros((60, 80, 3))}, "image must be"),
        ({"panoptic_map": np.zeros((60, 79), int)}, "panoptic_map must be"),
        ({"panoptic_map": np.zeros((60, 80))}, "panoptic_map must be"),
        ({"alpha": 1.5}, "alpha"),
        ({"scale": 0}, "scale"),
    ],
)
def test_wrong_arguments(scene, metadata, change, message):
    image, panoptic_map, segments = scene
    arguments = {"image": image, "panoptic_map": panoptic_map, "segments_info": segments}
    with pytest.raises(ValueError, match=message):
        draw_panoptic(**{**arguments, **change}, metadata=metadata)


def test_from_ground_truth(tmp_path, scene, metadata):
    image, panoptic_map, _ = scene
    path = tmp_path / "a.png"
    Image.fromarray(id2rgb(panoptic_map)).save(path)
    annotation = {
        "segments_info": [
            {"id": 70000, "category_id": 90, "area": 1, "iscrowd": 0},
            {"id": 4, "category_id": 3, "iscrowd": 1},
            {"id": 9, "category_id": 17, "score": 0.5},
            {"id": 5, "category_id": 1},
        ]
    }
    read, segments = from_ground_truth(path, annotation, metadata)
    np.testing.assert_array_equal(read, panoptic_map)
    assert [(s["id"], s["category_id"], s["isthing"], s["iscrowd"]) for s in segments] == [
        (70000, 1, False, 0),
        (4, 0, True, 1),
        (9, 1, True, 0),
        (5, -1, False, 0),
    ]
    assert segments[2]["score"] == 0.5
    assert "score" not in segments[0]
    assert [name for name, _ in legend(segments, metadata)] == ["cat", "dog", "grass", "id 1"]
    assert draw_panoptic(image, read, segments, metadata).shape == image.shape


def test_from_ground_truth_refuses_other_files(tmp_path, metadata):
    annotation = {"segments_info": []}
    with pytest.raises(InputError, match=r"missing\.png"):
        from_ground_truth(tmp_path / "missing.png", annotation, metadata)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png"):
        from_ground_truth(text, annotation, metadata)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(grey)
    with pytest.raises(InputError, match=r"grey\.png: 8-bit greyscale PNG; expected 8-bit RGB"):
        from_ground_truth(grey, annotation, metadata)
    rgb = tmp_path / "rgb.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(rgb)
    with pytest.raises(InputError, match="'category_id'"):
        from_ground_truth(rgb, {"segments_info": [{"id": 1}]}, metadata)
