"""benchmark.py: what is printed is what is written, and mistakes are one line."""

import json
import subprocess
import sys

import pytest

from ocr_panoptic.benchmark.schemes import registered_schemes
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool
from ..models import CONFIGS, SMALL, TINY

KEYS = {
    *("name", "size", "batch", "device", "dtype", "mode", "params", "flops", "peak_memory_bytes"),
    *("median_ms", "spread_ms", "published", "published_rows", "reading", "ratio_to_products"),
}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/benchmark.py").main


def test_writes_what_it_prints(main, tmp_path, capsys):
    path, plot = tmp_path / "rows.json", tmp_path / "costs.png"
    argv = ["context", "--size", "512,6,8", "--runs", "1", "--device", "cpu"]
    assert main([*argv, "--json", str(path), "--plot", str(plot)]) == 0
    rows = json.loads(path.read_text())
    assert [row["name"] for row in rows] == registered_schemes()
    table = capsys.readouterr().out
    for row in rows:
        assert set(row) == KEYS
        assert (row["size"], row["device"], row["dtype"]) == ([512, 6, 8], "cpu", "float32")
        assert (row["mode"], row["batch"]) == ("forward", 1)
        assert row["peak_memory_bytes"] >= 0
        assert row["spread_ms"] >= 0
        assert f"{row['median_ms']:.1f} ms" in table
        if row["flops"]:
            assert f"{row['ratio_to_products']:.2f}" in table
    published = {row["name"]: row["published"] for row in rows}
    assert published["ocr"]["flops"] == 340e9
    # The published row was made at another size.
    assert "340 G" not in table
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_names_and_conditions_of_one_run(main, tmp_path, capsys):
    path = tmp_path / "rows.json"
    names = ["ocr", "ocr_textbook", "isa", "isa_textbook", "sa", "sa_explicit", "non_local"]
    names += ["base_oc_isa", "base_oc_isa_textbook", "base_oc_sa"]
    argv = ["context", "--sizes", "512,3,4", "512,4,4", "--runs", "1", "--device", "cpu"]
    assert main([*argv, "--names", *names, "--num-regions", "5", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["name"] for row in rows] == names * 2
    assert [row["size"][1] for row in rows] == [3] * len(names) + [4] * len(names)
    assert "512x3x4, float32, cpu, forward\n" in capsys.readouterr().out
    argv = ["context", "--size", "512,4,4", "--names", "ocr", "--runs", "1", "--device", "cpu"]
    argv += ["--mode", "forward", "training", "--dtype", "float32", "bfloat16", "--batch", "3"]
    assert main([*argv, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [(row["dtype"], row["mode"], row["batch"]) for row in rows] == [
        *(("float32", mode, 3) for mode in ("forward", "training")),
        *(("bfloat16", mode, 3) for mode in ("forward", "training")),
    ]


def test_a_model_is_measured(main, tmp_path, capsys):
    path = tmp_path / "model.json"
    argv = ["model", "--config-file", str(TINY["ocr"]), "--size", "64,96", "--device", "cpu"]
    argv += ["--runs", "1", "--json", str(path), "--opts", *map(str, SMALL)]
    assert main(argv) == 0
    cost = json.loads(path.read_text())
    assert cost["config"] == str(TINY["ocr"])
    assert cost["size"] == [64, 96]
    assert cost["images_per_second"] > 0
    assert "ratio_to_stock" not in cost
    assert {"backbone", "sem_seg_head", "roi_heads", "merging"} <= set(cost["parts"])
    printed = capsys.readouterr().out
    assert printed.startswith("1 image of 64x96, cpu, inference\n")
    assert f"| {cost['images_per_second']:.2f} " in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["context", "--names", "nothing"],
            "--names nothing: unknown, expected some of acf asp_oc_isa",
        ),
        (["context", "--size", "512"], "--size 512: expected C,H,W"),
        (["context", "--size", "512,0,3"], "--size 512,0,3: expected numbers of 1 or more"),
        (["context", "--sizes", "512,2,3", "512,2"], "--size 512,2: expected C,H,W"),
        (["context", "--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["context", "--runs", "0"], "--runs 0: expected 1 or more"),
        (["context", "--batch", "0"], "--batch 0: expected 1 or more"),
        (["context", "--num-regions", "0"], "--num-regions 0: expected 1 or more"),
        (["context", "--dtype", "int8"], "int8"),
        (["context", "--mode", "backward"], "backward"),
        (["context", "--json", "/dev/null/rows.json"], "--json: /dev/null: "),
        (["context", "--json", "."], "--json .: is a folder, expected a file"),
        (["context", "--plot", "costs.pdf"], "--plot costs.pdf: expected a name that ends in .png"),
        (["context", "--plot", "/dev/null/costs.png"], "--plot: /dev/null: "),
        (
            ["context", "--size", "512,4194304,4194304", "--names", "ocr"],
            "--size 512,4194304,4194304, ocr: cpu has not enough memory",
        ),
        (["merging", "--instances", "0"], "--instances 0: expected 1 or more"),
        (["merging", "--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["model"], "--config-file"),
        (["model", "--config-file", "none.yaml"], "--config-file none.yaml: no such file"),
        (
            ["model", "--config-file", "none.yaml", "--json", "none.yaml"],
            "--json none.yaml: is read too, expected another file",
        ),
        (["model", "--config-file", "F", "--size", "9"], "--size 9: expected H,W such as 480,640"),
        (["model", "--config-file", "F", "--batch", "0"], "--batch 0: expected 1 or more"),
        (["model", "--config-file", "F", "--instances", "0"], "--instances 0: expected 1 or more"),
        (["model", "--config-file", "F", "--against", "mine"], "mine"),
        (["model", "--config-file", "F", "--dtype", "int8"], "int8"),
        (
            ["model", "--config-file", str(TINY["ocr"]), "--opts", "MODEL.NOTHING", "1"],
            "command line: Non-existent key: MODEL.NOTHING",
        ),
        (
            ["model", "--config-file", str(TINY["ocr"]), "--against", "stock", "--size", "64,64"],
            "--against stock: MODEL.RESNETS.DEPTH 18",
        ),
        (
            ["model", "--config-file", str(TINY["ocr"]), "--opts", "MODEL.MASK_ON", "False"],
            "MODEL.MASK_ON: False, expected True",
        ),
        (
            [
                *("model", "--config-file", str(TINY["ocr"])),
                *("--opts", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
            ],
            "MODEL.META_ARCHITECTURE: 'SemanticSegmentor', expected one with the parts",
        ),
        (
            [
                *("context", "--names", "ppm", "--size", "8,2,2", "--mode", "training"),
                *("--batch", "1"),
            ],
            "--size 8,2,2, ppm: BatchNorm has one value in training, expected a larger --batch",
        ),
        (
            [
                *("model", "--config-file", str(CONFIGS / "README.md")),
                *("--opts", "MODEL.WEIGHTS", "none.pth"),
            ],
            "README.md",
        ),
        ([], "command"),
    ],
)
def test_mistakes_are_one_line(main, capsys, argv, message):
    if argv and argv[0] in ("context", "model") and "--device" not in argv:
        argv = [*argv[:1], "--device", "cpu", *argv[1:]]
    assert main(argv) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_the_merge_is_measured_beside_detectron2s(main, tmp_path, capsys):
    path = tmp_path / "merging.json"
    argv = ["merging", "--instances", "3", "--runs", "3", "--device", "cpu", "--json", str(path)]
    assert main(argv) == 0
    cost = json.loads(path.read_text())
    assert cost["instances"] == 3
    assert cost["size"] == [480, 640]
    assert cost["ratio_to_detectron2"] == cost["median_ms"] / cost["detectron2_ms"] > 0
    assert f"ratio {cost['ratio_to_detectron2']:.2f}\n" in capsys.readouterr().out


def test_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "tools/benchmark.py", "context", "--size", "512,4,4", "--runs", "1"),
            *("--names", "ocr_textbook", "ppm"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "| ocr_textbook" in done.stdout
