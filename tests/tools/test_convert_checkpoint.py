"""tools/convert_checkpoint.py."""

import json
import shlex
import subprocess
import sys

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from ocr_panoptic.convert import FORMATS
from ocr_panoptic.engine.checkpoint import Checkpointer

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY, small_config, small_model
from ..reference.foreign_heads import MmsegISA, OpensegISA, OpensegOCR, shake


@pytest.fixture
def main():
    return load_tool("tools/convert_checkpoint.py").main


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Weights of a stock Panoptic-FPN."""
    path = tmp_path_factory.mktemp("stock") / "stock.pth"
    torch.save({"model": small_model("baseline").state_dict()}, path)
    return path


@pytest.fixture
def head(tmp_path):
    """An OCR head of openseg that fits the tiny config: 32 channels in, 5 classes."""
    cfg = small_config("ocr")
    ocr = cfg.MODEL.SEM_SEG_HEAD.OCR
    model = OpensegOCR(32, ocr.CHANNELS, ocr.KEY_CHANNELS, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    path = tmp_path / "openseg.pth"
    torch.save({"state_dict": shake(model).state_dict()}, path)
    return path


def words(source, target, given, output, *more):
    return [
        *("--from", source, "--to", target, "--input", str(given), "--output", str(output)),
        *map(str, more),
    ]


def config(name="ocr", *overrides):
    return ["--config-file", str(TINY[name]), "--opts", *map(str, SMALL), *overrides]


def one_line(capsys):
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert not captured.out
    assert line.startswith("error: ")
    return line


def test_a_head_and_back(main, head, tmp_path, capsys):
    own, back, report = tmp_path / "new/own.pth", tmp_path / "back.pth", tmp_path / "report.json"
    assert main(words("openseg-ocr", "ocr", head, own, "--json", report)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"openseg-ocr {head} to ocr {own}"
    assert printed[1] == "0 matched, 42 renamed, 8 changed, 9 left out, 0 missing"
    assert "    MODEL.SEM_SEG_HEAD.OCR.MASK_PADDING False" in printed
    found = json.loads(report.read_text())
    assert (found["from"], found["to"], found["exact"]) == ("openseg-ocr", "ocr", True)
    assert (found["input"], found["output"]) == (str(head), str(own))
    assert len(found["renamed"]) == 42
    assert len(found["left_out"]) == 9
    weights = torch.load(own)["model"]
    assert len(weights) == 50
    assert main(words("ocr", "openseg-ocr", own, back)) == 0
    foreign = torch.load(back)["state_dict"]
    given = torch.load(head)["state_dict"]
    assert set(foreign) == {name for name in given if not name.startswith("dsn_head.")}


def test_into_a_model_of_a_config(main, stock, tmp_path, capsys):
    """What the tool says that a training starts from, a training does start from."""
    output, report = tmp_path / "start.pth", tmp_path / "report.json"
    line = words("panoptic-fpn", "panoptic-fpn-ocr", stock, output, "--json", report)
    assert main([*line, *config()]) == 0
    # The config has what the weights need: nothing is left to set.
    assert "set in the config" not in capsys.readouterr().out
    model = build_model(small_config("ocr"))
    Checkpointer.of_config(small_config("ocr"), model).load(str(output))
    given = torch.load(stock)["model"]
    state = model.state_dict()
    assert all(torch.equal(state[name], given[name]) for name in given)
    missing = set(json.loads(report.read_text())["missing"])
    # Counters of norms are filled in by torch.
    assert missing == {
        name for name in set(state) - set(given) if not name.endswith("num_batches_tracked")
    }


def test_a_head_in_a_model(main, stock, head, tmp_path, capsys):
    """A converted head on top of the model zoo's weights: nothing of the model starts anew."""
    output, report = tmp_path / "start.pth", tmp_path / "report.json"
    line = words("openseg-ocr", "ocr", head, output, "--base", stock, "--json", report)
    assert main([*line, *config()]) == 0
    printed = capsys.readouterr().out
    # The only key of the tiny config that the weights want otherwise.
    assert printed.endswith("set in the config:\n    MODEL.SEM_SEG_HEAD.OCR.MASK_PADDING False\n")
    assert json.loads(report.read_text())["missing"] == {}
    model = build_model(small_config("ocr"))
    Checkpointer.of_config(small_config("ocr"), model).load(str(output))
    given = torch.load(head)["state_dict"]
    assert torch.equal(model.sem_seg_head.ocr_predictor.weight, given["head.weight"])
    assert torch.equal(
        model.backbone.bottom_up.stem.conv1.weight,
        torch.load(stock)["model"]["backbone.bottom_up.stem.conv1.weight"],
    )


@pytest.mark.parametrize("source", ["openseg-isa", "mmseg-isa"])
def test_isa_in_a_model(main, stock, source, tmp_path, capsys):
    """The printed keys build the head whose numbers are those of the other project's."""
    classes = small_config("ocr").MODEL.SEM_SEG_HEAD.NUM_CLASSES
    values = {"openseg-isa": (24,), "mmseg-isa": ()}[source]
    build = {"openseg-isa": OpensegISA, "mmseg-isa": MmsegISA}[source]
    model = shake(build(32, 32, 16, *values, classes, (4, 4))).double().eval()
    given, output = tmp_path / "given.pth", tmp_path / "start.pth"
    torch.save({"state_dict": model.state_dict()}, given)
    assert main(words(source, "isa", given, tmp_path / "alone.pth")) == 0
    printed = shlex.split(capsys.readouterr().out.split("set in the config:\n")[1])
    overrides = [*printed, "MODEL.SEM_SEG_HEAD.CONTEXT.PARTITIONS", "(4, 4)"]
    line = words(source, "isa", given, output, "--base", stock)
    assert main([*line, *config("ocr", *overrides)]) == 0
    assert "set in the config" not in capsys.readouterr().out
    cfg = small_config("ocr", overrides)
    ours = build_model(cfg)
    Checkpointer.of_config(cfg, ours).load(str(output))
    # Where the regions came from goes unused.
    head = ours.sem_seg_head.double().eval()
    feats = torch.randn(1, 32, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        augmented = head.augment(head.context_transform, head.context, feats, None)
        assert (head.context_predictor(augmented) - model(feats)).abs().max() < 1e-4


def test_a_resnet_starts_a_detector(main, tmp_path, capsys):
    given, output = tmp_path / "resnet18.pth", tmp_path / "R-18.pth"
    state = shake(torchvision.models.resnet18()).state_dict()
    torch.save(state, given)
    overrides = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "FrozenBN"]
    line = words("torchvision", "detectron2", given, output)
    assert main([*line, *config("ocr", *overrides)]) == 0
    printed = capsys.readouterr().out
    # The tiny config has Detectron2's own mean and order of channels.
    assert "    INPUT.FORMAT RGB\n" in printed
    assert '    MODEL.PIXEL_MEAN "[123.675, 116.28, 103.53]"\n' in printed
    assert "RESNETS.DEPTH" not in printed
    cfg = small_config("ocr", overrides)
    model = build_model(cfg)
    Checkpointer.of_config(cfg, model).load(str(output))
    block = model.backbone.bottom_up.res3[0]
    assert torch.equal(block.shortcut.weight, state["layer2.0.downsample.0.weight"])
    assert torch.equal(block.conv2.norm.running_var, state["layer2.0.bn2.running_var"])


def test_the_printed_config_can_be_given_to_a_command(main, tmp_path, capsys):
    given = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), given)
    assert main(words("timm", "detectron2", given, tmp_path / "R-18.pth")) == 0
    lines = capsys.readouterr().out.split("set in the config:\n")[1]
    cfg = small_config("ocr", shlex.split(lines))
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.DEPTH) == ("RGB", 18)
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--from", "caffe"], f"--from caffe: expected one of {' '.join(FORMATS)}"),
        (["--to", "keras"], "--to keras: expected one of torchvision timm"),
        (["--to", "mmseg-ocr"], "--from openseg-ocr --to mmseg-ocr: expected --to ocr"),
        (
            ["--from", "ocr", "--to", "isa"],
            "--from ocr --to isa: expected --to openseg-ocr or mmseg-ocr",
        ),
        (["--num-classes", "3"], "--num-classes with --to ocr: expected --to panoptic-fpn-ocr"),
        (
            ["--from", "panoptic-fpn", "--to", "panoptic-fpn-ocr", "--num-classes", "0"],
            "--num-classes 0: expected 1 or more",
        ),
        (
            ["--from", "ocr", "--to", "mmseg-ocr", "--base", "x"],
            "--base with --to mmseg-ocr: expected --to ocr or isa",
        ),
        (
            ["--from", "ocr", "--to", "mmseg-ocr", "--prefix", ""],
            "--prefix with --to mmseg-ocr: expected --to ocr or isa",
        ),
        (["--prefix", "head"], "--prefix head: expected a name that ends with a dot, or ''"),
        (["--opts", "SEED", "1"], "--opts SEED: expected with --config-file"),
        (
            ["--from", "ocr", "--to", "mmseg-ocr", "--config-file", str(TINY["ocr"])],
            "--config-file with --to mmseg-ocr: expected --to detectron2 or",
        ),
        (["--output", "x.pkl"], "--output x.pkl: expected a name that ends with .pth"),
        (["--output", "/dev/null/x.pth"], "--output: /dev/null: "),
        (["--input", "missing.pth"], "missing.pth: No such file or directory, expected"),
        (["--from", "openseg-isa", "--to", "isa"], "openseg.pth does not fit: it has no isa_head"),
        (["--config-file", "missing.yaml"], "--config-file missing.yaml: no such file"),
        (["--input"], "argument --input: expected one argument"),
    ],
)
def test_bad_arguments(main, head, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main([*words("openseg-ocr", "ocr", head, tmp_path / "own.pth"), *more]) == 2
    assert message in one_line(capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_that_is_read_is_replaced(main, head, tmp_path, capsys):
    content = head.read_bytes()
    own = tmp_path / "own.pth"
    for line, flag in (
        (words("openseg-ocr", "ocr", head, head), "--output"),
        (words("openseg-ocr", "ocr", head, own, "--json", head), "--json"),
        (words("openseg-ocr", "ocr", head, own, "--json", own), "--json"),
    ):
        assert main(line) == 2
        assert one_line(capsys).startswith(f"error: {flag} ")
    assert head.read_bytes() == content
    assert not own.exists()


def test_what_does_not_fit_the_config_s_model_is_not_written(main, stock, tmp_path, capsys):
    output = tmp_path / "start.pth"
    line = words("panoptic-fpn", "panoptic-fpn-ocr", stock, output)
    assert main([*line, *config("ocr", "MODEL.RESNETS.DEPTH", "50")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"error: --config-file: MODEL.WEIGHTS: {output}: ")
    assert "of the model's keys are missing" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "Foo"], "MODEL.META_ARCHITECTURE: 'Foo' is not registered"),
        (["MODEL.FOO", "1"], "command line: Non-existent key: MODEL.FOO"),
    ],
)
def test_a_config_with_a_mistake(main, head, tmp_path, capsys, overrides, message):
    line = words("openseg-ocr", "ocr", head, tmp_path / "own.pth")
    assert main([*line, *config("ocr", *overrides)]) == 2
    assert message in one_line(capsys)
    assert list(tmp_path.iterdir()) == [head]


def test_a_file_that_could_run_code(main, head, tmp_path, capsys):
    content = torch.load(head)
    content["meta"] = Exploit(str(tmp_path / "written"))
    torch.save(content, head)
    own = tmp_path / "own.pth"
    assert main(words("openseg-ocr", "ocr", head, own)) == 2
    assert "is refused, as loading it could run any code" in one_line(capsys)
    assert not (tmp_path / "written").exists()
    assert main([*words("openseg-ocr", "ocr", head, own), "--trust-checkpoint"]) == 0
    assert own.exists()


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_in_a_process_of_its_own(head, tmp_path):
    finished = subprocess.run(
        [
            *(sys.executable, "tools/convert_checkpoint.py"),
            *words("openseg-ocr", "ocr", head, tmp_path / "own.pth", "--prefix", "head."),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    assert all(name.startswith("head.ocr") for name in torch.load(tmp_path / "own.pth")["model"])
