"""Which images a command line means, their names and ids, and what is read of them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from ocr_panoptic.data.images import check_image_mode
from ocr_panoptic.engine.inputs import list_images, read_images
from ocr_panoptic.engine.prediction import read_rgb
from ocr_panoptic.errors import InputError


def photo(seed=0, width=24, height=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_video(path, frames=4):
    # Each frame is one grey, far from the others': compression does not hide which it is.
    size = (64, 48)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    assert writer.isOpened()
    for frame in range(frames):
        writer.write(np.full((*size[::-1], 3), 40 * (frame + 1), dtype=np.uint8))
    writer.release()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    for name in ("b.jpg", "a.PNG", "sub/b.jpg", "sub/deep/c.webp", ".hidden.jpg", ".cache/x.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo().save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def names(inputs, without="nowhere", **options):
    images, unreadable = list_images(inputs, without=Path(without), **options)
    assert unreadable == []
    return [(image.image_id, image.name) for image in images]


ALL = [(1, "a.PNG"), (2, "b.jpg"), (3, "sub/b.jpg"), (4, "sub/deep/c.webp")]


def test_a_folder_is_searched_to_the_bottom(folder):
    assert names([folder]) == ALL
    assert names([f"{folder}/"]) == ALL
    # Once, however often it is given; the first name counts.
    assert names([folder, folder / "b.jpg", folder / "sub"]) == ALL
    photo().save(folder / "sub/z.jpg")
    assert names([folder / "sub/z.jpg", folder])[-1] == (5, "z.jpg")


def test_files_and_patterns_are_named_by_their_last_part(folder):
    assert names([folder / "sub/b.jpg"]) == [(1, "b.jpg")]
    assert names([f"{folder}/sub/*"]) == [(1, "b.jpg")]
    assert names([f"{folder}/*.[jP]*", f"{folder}/**/*.webp"]) == [
        *((1, "a.PNG"), (2, "b.jpg"), (3, "c.webp")),
    ]
    # A file that is there is no pattern.
    photo().save(folder / "x[1].png")
    assert names([f"{folder}/x[1].png"]) == [(1, "x[1].png")]


def test_results_are_no_images(folder):
    results = folder / "predicted/visualizations"
    results.mkdir(parents=True)
    photo().save(results / "b.jpg")
    assert names([folder], without=folder / "predicted") == ALL
    pattern = f"{folder}/**/*.webp"
    photo().save(results / "c.webp")
    assert names([pattern], without=folder / "predicted") == [(1, "c.webp")]
    with pytest.raises(InputError, match=r"--output .*images: is the folder of images too"):
        names([folder], without=folder)


def test_links_to_folders_are_followed_but_not_round(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    photo().save(other / "z.jpg")
    (folder / "linked").symlink_to(other)
    (folder / "sub/round").symlink_to(folder)
    assert names([folder]) == sorted(
        [*ALL[:2], (3, "linked/z.jpg"), (4, "sub/b.jpg"), (5, "sub/deep/c.webp")]
    )


def test_one_name_for_two_images_is_refused(folder):
    photo().save(folder / "b.png")
    message = r"--input: .*b.jpg and .*b.png are both named b, expected different names"
    with pytest.raises(InputError, match=message):
        names([folder])
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"sub/b.jpg are both named b|b.jpg are both named b"):
        names([folder / "b.jpg", folder / "sub/b.jpg"])


def test_missing_images_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, message in (
        (
            tmp_path / "none.jpg",
            r"none.jpg: no such file, expected an image, a folder or a pattern",
        ),
        (tmp_path / "empty", "empty: no image in this folder, expected some"),
        (f"{folder}/*.tif", r"\*.tif: no image of this pattern, expected some"),
        (f"{folder}/*.txt", r"\*.txt: no image of this pattern, expected some"),
    ):
        with pytest.raises(InputError, match=message):
            names([folder, given])


ROWS = {
    7: {"file_name": "b.jpg", "height": 16, "width": 24},
    3: {"file_name": "sub/b.jpg", "height": 16, "width": 24},
}


def test_a_list_gives_the_ids(folder):
    assert names([folder], rows=ROWS, skip_unlisted=True) == [(7, "b.jpg"), (3, "sub/b.jpg")]
    message = "a.PNG and 1 more are not in the list of --image-info, expected its images only, or"
    with pytest.raises(InputError, match=message):
        names([folder], rows=ROWS)
    for missing in (8, 9):
        rows = {**ROWS, missing: {"file_name": "c.jpg", "height": 1, "width": 1}}
        message = "--image-info: c.jpg is not among the images of --input, expected every image"
        with pytest.raises(InputError, match=message):
            names([folder], rows=rows, skip_unlisted=True)


def test_a_size_that_the_list_does_not_say_is_told(folder):
    rows = {7: {**ROWS[7], "height": 17}, 3: ROWS[3]}
    images, _ = list_images([folder], without=folder / "o", rows=rows, skip_unlisted=True)
    (_, wrong), (_, right) = read_images(images)
    assert str(wrong) == (f"{folder}/b.jpg: 24x16 pixels, expected 24x17, as --image-info says")
    assert right.shape == (16, 24, 3)


def test_frames_of_a_video_are_images(tmp_path):
    write_video(tmp_path / "clip.avi")
    photo().save(tmp_path / "clip.jpg")
    images, unreadable = list_images([tmp_path], without=tmp_path / "out")
    assert unreadable == []
    assert [image.name for image in images] == [
        "clip.jpg",
        *(f"clip_{frame:06d}.jpg" for frame in range(4)),
    ]
    pixels = [pixels for _, pixels in read_images(images)]
    assert [round(frame.mean() / 40) for frame in pixels[1:]] == [1, 2, 3, 4]
    # Some of them, and again from the start: as a run that goes on.
    some = [images[4], images[1], images[3]]
    assert [round(frame.mean() / 40) for _, frame in read_images(some)] == [4, 1, 3]


def test_a_broken_video_is_told(tmp_path, capfd):
    photo().save(tmp_path / "a.jpg")
    for name in ("clip.avi", "clip.mp4"):
        (tmp_path / name).write_bytes(b"no video" * 100)
    images, unreadable = list_images([tmp_path], without=tmp_path / "out")
    assert [image.name for image in images] == ["a.jpg"]
    assert unreadable == [
        f"{tmp_path}/{name}: no frame can be read, expected a video"
        for name in ("clip.avi", "clip.mp4")
    ]
    # Nor does a library talk.
    assert capfd.readouterr().err == ""


def test_an_unreadable_image_does_not_stop_the_others(folder):
    (folder / "a.PNG").write_bytes(b"no image")
    (folder / "sub/b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-200])
    images, _ = list_images([folder], without=folder / "out")
    read = [pixels for _, pixels in read_images(images)]
    assert [isinstance(pixels, InputError) for pixels in read] == [True, False, True, False]
    assert "a.PNG: truncated or no image" in str(read[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_kind_of_image_is_read_as_rgb(mode, tmp_path):
    grey = photo(width=30, height=20).convert("L")
    image = grey.convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = read_rgb(path)
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "P", "CMYK"):
        np.testing.assert_array_equal(pixels, np.asarray(grey.convert("RGB")))
    else:
        # As Pillow shows it.
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_of_16_bits_of_colour_the_higher_8_are_taken(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), (deep >> 8)[:, :, ::-1])
    # As in training, whose images Detectron2 reads.
    check_image_mode(tmp_path / "deep.png")
    trained = read_image(str(tmp_path / "deep.png"), "RGB")
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), trained)


@pytest.mark.parametrize(
    ("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")]
)
def test_grey_of_more_than_8_bits_is_refused_as_in_training(dtype, mode, tmp_path):
    path = tmp_path / "image.tif"
    Image.fromarray(np.array([[0, 700]], dtype)).save(path)
    messages = []
    for read in (read_rgb, check_image_mode):
        with pytest.raises(InputError) as error:
            read(path)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(
        f"{path}: image of Pillow's mode {mode}; expected 8 bits per channel"
    )
