"""visualize.py relations: the pictures it writes, and what it says to mistakes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.prediction import load_model, read_input, read_rgb
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY, small_config, small_model

CONTEXT = [
    *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN"),
    *("MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone"),
    *("MODEL.RESNETS.CONTEXT.NAME", "isa", "MODEL.RESNETS.CONTEXT.NORM", "BN"),
]
BLOCKS = ("backbone.bottom_up.res4.1.context.layer", "sem_seg_head.ocr")


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/visualize.py").main


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((140, 100)).save(path)
    return path


def arguments(photo, output, *pixels, config="ocr", overrides=()):
    images = photo if isinstance(photo, list) else [photo]
    return [
        *("relations", "--config-file", str(TINY[config]), "--input", *map(str, images)),
        *("--pixel", *pixels, "--output", str(output)),
        *("--opts", *map(str, [*SMALL, *overrides])),
    ]


def test_one_picture_for_each_image_pixel_and_block(main, photo, tmp_path, capsys):
    other = tmp_path / "other.png"
    Image.open(photo).crop((0, 0, 90, 100)).save(other)
    argv = arguments([photo, other], tmp_path / "out", "80,70", "0,0", "80,70", overrides=CONTEXT)
    assert main(argv) == 0
    expected = [
        tmp_path / "out" / f"{stem}_{pixel}_panoptic_fpn_ocr_tiny_{block}.png"
        for stem in ("photo", "other")
        for pixel in ("80_70", "0_0")
        for block in BLOCKS
    ]
    assert capsys.readouterr().out.split() == [str(path) for path in expected]
    assert sorted((tmp_path / "out").iterdir()) == sorted(expected)
    first = {path: path.read_bytes() for path in expected}
    # The image, three maps; the image and a chart.
    sizes = [Image.open(path).size for path in expected[:2]]
    assert sizes == [(56 + 4 * 480 + 3 * 24, 104 + 343 + 30 + 28), (56 + 480 + 24 + 460, 475)]
    assert main(argv) == 0
    assert {path: path.read_bytes() for path in expected} == first


def test_weights_are_those_of_the_checkpoint(main, photo, tmp_path, caplog):
    assert main(arguments(photo, tmp_path / "random", "5,5")) == 0
    assert "MODEL.WEIGHTS is empty: random weights are drawn" in caplog.text
    caplog.clear()
    Checkpointer(small_model("ocr", seed=7), str(tmp_path)).save("model")
    weights = ["MODEL.WEIGHTS", tmp_path / "model.pth"]
    assert main(arguments(photo, tmp_path / "loaded", "5,5", overrides=weights)) == 0
    assert "random weights" not in caplog.text
    name = "photo_5_5_panoptic_fpn_ocr_tiny_sem_seg_head.ocr.png"
    random, loaded = ((tmp_path / folder / name) for folder in ("random", "loaded"))
    assert random.read_bytes() != loaded.read_bytes()


def test_classes_are_named_after_the_data_set(main, photo, tmp_path):
    # Its files are not there, and not needed.
    for names, folder in ((("shapes_easy_val_panoptic_separated",), "named"), ((), "numbered")):
        overrides = ["DATASETS.TEST", names, "DATASETS.TRAIN", ()]
        assert main(arguments(photo, tmp_path / folder, "5,5", overrides=overrides)) == 0
    name = "photo_5_5_panoptic_fpn_ocr_tiny_sem_seg_head.ocr.png"
    assert (tmp_path / "named" / name).read_bytes() != (tmp_path / "numbered" / name).read_bytes()


def test_a_photo_is_turned_as_its_exif_says(main, photo, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(turned, exif=exif)
    assert read_rgb(turned).shape == (140, 100, 3)
    assert main(arguments(turned, tmp_path, "99,139")) == 0
    assert main(arguments(turned, tmp_path, "139,99")) == BAD_INPUT


def test_the_input_is_that_of_detectron2s_predictor(photo):
    for overrides in ([], ["INPUT.FORMAT", "RGB"], ["INPUT.MIN_SIZE_TEST", 0]):
        image, inputs = read_input(small_config("ocr", overrides), photo)
        assert (inputs["height"], inputs["width"]) == (100, 140)
        assert image.shape == (100, 140, 3)
        expected = (100, 140) if "INPUT.MIN_SIZE_TEST" in overrides else (96, 134)
        assert inputs["image"].shape == (3, *expected)
        assert inputs["image"].dtype == torch.float32
        # BGR is the default.
        channels = inputs["image"].mean((1, 2)).numpy()
        given = image.mean((0, 1))[:: 1 if "RGB" in overrides else -1]
        np.testing.assert_allclose(channels, given, atol=1)


def test_a_model_is_ready_to_predict():
    model = load_model(small_config("ocr"))
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def one_line(capsys):
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert not captured.out
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        ("140,5", "--pixel 140,5: not in {photo}, expected 0,0 to 139,99 in its 140x100 pixels"),
        ("5,100", "--pixel 5,100: not in {photo}, expected 0,0 to 139,99"),
        ("5,-1", "--pixel 5,-1: not in {photo}"),
        ("-1,5", "--pixel -1,5: not in {photo}, expected 0,0 to 139,99"),
        ("-1,x", "--pixel -1,x: expected X,Y"),
        ("5", "--pixel 5: expected X,Y such as 320,240"),
        ("5,5,5", "--pixel 5,5,5: expected X,Y"),
        ("5,x", "--pixel 5,x: expected X,Y"),
        ("1.5,2", "--pixel 1.5,2: expected X,Y"),
    ],
)
def test_a_bad_pixel_is_one_line(main, photo, tmp_path, capsys, pixel, message):
    assert main(arguments(photo, tmp_path / "out", "3,3", pixel)) == BAD_INPUT
    assert message.format(photo=photo) in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_bad_images_are_one_line(main, photo, tmp_path, capsys):
    truncated, text, missing = (tmp_path / name for name in ("cut.jpg", "text.png", "none.jpg"))
    truncated.write_bytes(photo.read_bytes()[:-500])
    text.write_text("no image")
    for path, message in (
        (truncated, f"{truncated}: truncated or no image (image file is truncated"),
        (text, f"{text}: truncated or no image (cannot identify image file"),
        (missing, f"{missing}: no such file, expected an image"),
        (tmp_path, f"{tmp_path}: no such file, expected an image"),
    ):
        # Before anything is written for the one before.
        assert main(arguments([photo, path], tmp_path / "out", "3,3")) == BAD_INPUT
        assert message in one_line(capsys)
        assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_one_line(main, photo, tmp_path, capsys):
    twin = tmp_path / "photo.png"
    Image.open(photo).save(twin)
    for pair in ([photo, twin], [photo, photo]):
        assert main(arguments(pair, tmp_path / "out", "3,3")) == BAD_INPUT
        message = f"--input: {pair[0]} and {pair[1]} are both named photo, expected different"
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["NO.KEY", 1], "Non-existent key: NO.KEY"),
        (["MODEL.DEVICE", "tpu"], "MODEL.DEVICE: 'tpu', expected cuda or cpu"),
        (["MODEL.BACKBONE.NAME", "nothing"], "MODEL.BACKBONE.NAME: 'nothing' is not registered"),
        (["MODEL.WEIGHTS", "none.pth"], "MODEL.WEIGHTS: none.pth does not exist"),
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT: 'L', expected RGB or BGR"),
        (["INPUT.MIN_SIZE_TEST", -1], "INPUT.MIN_SIZE_TEST: -1, expected 0 or more"),
        (["INPUT.MAX_SIZE_TEST", 0], "INPUT.MAX_SIZE_TEST: 0, expected 1 or more"),
        (["MODEL.SEM_SEG_HEAD.OCR.CHANNELS"], "expected pairs of KEY VALUE"),
    ],
)
def test_a_bad_config_is_one_line(main, photo, tmp_path, capsys, overrides, message):
    assert main(arguments(photo, tmp_path, "3,3", overrides=overrides)) == BAD_INPUT
    assert message in one_line(capsys)


def test_a_model_without_a_block_is_one_line(main, photo, tmp_path, capsys):
    assert main(arguments(photo, tmp_path, "3,3", config="baseline")) == BAD_INPUT
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert error.startswith("error: the model has no context block, expected MODEL.RESNETS.CONTEXT")


def test_an_image_too_narrow_is_one_line(main, tmp_path, capsys):
    Image.new("RGB", (3000, 1)).save(tmp_path / "line.png")
    argv = arguments(tmp_path / "line.png", tmp_path / "out", "3,0")
    assert main(argv) == BAD_INPUT
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "line.png: 3000x1 pixels, too narrow for INPUT.MAX_SIZE_TEST 192" in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "command"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["relations"], "--pixel, --config-file, --input, --output"),
    ],
)
def test_a_bad_command_line_is_one_line(main, capsys, argv, message):
    assert main(argv) == BAD_INPUT
    assert message in one_line(capsys)


def test_a_missing_config_and_a_bad_output_are_one_line(main, photo, tmp_path, capsys):
    argv = arguments(photo, tmp_path, "3,3")
    argv[argv.index("--config-file") + 1] = "none.yaml"
    assert main(argv) == BAD_INPUT
    assert "--config-file none.yaml: no such file, expected a yaml config" in one_line(capsys)
    assert main(arguments(photo, photo, "3,3")) == BAD_INPUT
    assert f"--output: {photo}: " in one_line(capsys)


def test_an_output_without_a_name_is_not_the_current_folder(
    main, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments(photo, "", "3,3")) == BAD_INPUT
    assert "--output: : no name, expected a folder to write to" in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_deep_grey_is_refused_as_in_training(main, tmp_path, capsys):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 50), 700, np.uint16)).save(path)
    assert main(arguments(path, tmp_path / "out", "3,3")) == BAD_INPUT
    assert f"{path}: image of Pillow's mode I;16; expected 8 bits per" in one_line(capsys)


def test_runs_as_a_program(photo, tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/visualize.py", *arguments(photo, tmp_path / "out", "80,70")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "out" / "photo_80_70_panoptic_fpn_ocr_tiny_sem_seg_head.ocr.png"
    assert done.stdout == f"{picture}\n"
    assert picture.is_file()
    assert done.stderr == "MODEL.WEIGHTS is empty: random weights are drawn\n"
