"""benchmark.py context: counts against the paper's table, and the record it writes."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from ocr_panoptic.benchmark.context import Measurement, format_table, measure_schemes
from ocr_panoptic.benchmark.schemes import SCHEMES
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool

KEYS = {
    *("name", "size", "device", "dtype", "params", "flops", "peak_memory_bytes"),
    *("median_ms", "spread_ms", "published", "ratio_to_products"),
}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/benchmark.py").main


def test_writes_what_it_prints(main, tmp_path, capsys):
    path = tmp_path / "rows.json"
    argv = ["context", "--size", "512,6,8", "--runs", "2", "--device", "cpu", "--json", str(path)]
    assert main(argv) == 0
    rows = json.loads(path.read_text())
    assert [row["name"] for row in rows] == list(SCHEMES)
    table = capsys.readouterr().out
    for row in rows:
        assert set(row) == KEYS
        assert (row["size"], row["device"], row["dtype"]) == ([512, 6, 8], "cpu", "float32")
        assert row["peak_memory_bytes"] > 0
        assert row["spread_ms"] >= 0
        assert f"{row['median_ms']:.1f} ms" in table
        assert row["ratio_to_products"] > 0
        assert f"{row['ratio_to_products']:.2f}" in table
    assert rows[0]["published"]["flops"] == 340e9
    # The published row was made at another size.
    assert "340 G" not in table


def test_counts_are_the_papers():
    # Table 4: 10.5 M parameters, 340 GFLOPs at 2048x128x128. FLOPs grow with the positions but
    # for the transforms of the K region vectors, so a small map and a difference give the large.
    per_size = {}
    for side in (8, 16):
        (row,) = measure_schemes(
            ["ocr_textbook"], (2048, side, side), device="cpu", num_regions=19, runs=1
        )
        per_size[side] = row.flops
    of_position = (per_size[16] - per_size[8]) / (16 * 16 - 8 * 8)
    of_regions = per_size[8] - 8 * 8 * of_position
    flops = of_regions + 128 * 128 * of_position
    published = SCHEMES["ocr_textbook"].published
    assert abs(flops / published.flops - 1) < 0.02
    assert abs(row.params / published.params - 1) < 0.02


@pytest.mark.parametrize(
    ("name", "hand_count", "tolerance"),
    [
        # OCNet, Table 4, at 2048x128x128, with the 3x3 convolution before and the fusion after.
        # Values are half as wide as the input: then a count by hand gives these.
        ("base_oc_sa", 622.8e9, 0.03),
        ("base_oc_isa_textbook", 374.7e9, 0.03),
    ],
)
def test_ocnets_counts_are_the_papers(name, hand_count, tolerance):
    positions, width = 128 * 128, 512
    half = width // 2
    transforms = 2 * (width * half + half * half) + 2 * width * half
    rest = 9 * 2048 * width + 2 * width * width
    attention = {
        "base_oc_sa": transforms + 2 * positions * half,
        "base_oc_isa_textbook": 2 * transforms + 2 * (256 + 64) * half,
    }[name]
    by_hand = 2 * positions * (rest + attention)
    assert abs(by_hand / hand_count - 1) < 1e-3
    assert abs(by_hand / SCHEMES[name].published.flops - 1) < tolerance
    # The same counts on a map of 16x16, where the tool's count takes a moment.
    small = 16 * 16
    groups = {"base_oc_sa": small, "base_oc_isa_textbook": 4 + 64}[name]
    stages = 1 if name == "base_oc_sa" else 2
    expected = 2 * small * (rest + stages * transforms + 2 * groups * half)
    (row,) = measure_schemes([name], (2048, 16, 16), device="cpu", runs=1)
    assert row.flops == expected


def test_isa_is_compared_with_dense_attention():
    rows = measure_schemes(["isa", "sa", "sa_explicit"], (512, 16, 16), device="cpu", runs=1)
    share = 100 * rows[0].flops / rows[1].flops
    text = format_table(rows)
    assert f"FLOPs of isa: {share:.1f} % of sa, alone (published: 24.6 %, OCNet Fig. 4" in text
    share = 100 * rows[0].peak_memory_bytes / rows[2].peak_memory_bytes
    assert f"Peak memory of isa: {share:.1f} % of sa_explicit (published: 10.2 %" in text


def test_textbook_forms_compute_the_same():
    for one, other in (("isa", "isa_textbook"), ("sa", "sa_explicit"), ("ocr", "ocr_textbook")):
        torch.manual_seed(0)
        first = SCHEMES[one].build(512).eval()
        second = SCHEMES[other].build(512).eval()
        inputs = [torch.randn(1, 512, 16, 24)]
        if SCHEMES[one].num_regions:
            inputs.append(torch.randn(1, SCHEMES[one].num_regions, 16, 24))
        second.load_state_dict(
            dict(zip(second.state_dict(), first.state_dict().values(), strict=True))
        )
        with torch.no_grad():
            expected, found = second(*inputs), first(*inputs)
        assert expected.abs().max() > 0.1
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_flops_are_those_of_the_equations():
    channels, key, classes, side = 512, 256, 19, 4
    (textbook, folded) = measure_schemes(
        ["ocr_textbook", "ocr"], (channels, side, side), device="cpu", num_regions=classes, runs=1
    )
    positions = side * side
    gather = classes * channels * positions
    query = positions * (channels * key + key * key)
    regions = classes * (channels * key + key * key + channels * key)
    relation = positions * classes * key
    fuse = positions * 2 * channels * channels
    mix, output = positions * classes * key, positions * key * channels
    common = gather + query + regions + relation + fuse
    assert textbook.flops == 2 * (common + mix + output)
    # rho's convolution moves to the regions, and its wider result is mixed.
    assert folded.flops == 2 * (common + positions * classes * channels + classes * key * channels)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["context", "--names", "nothing"], "--names nothing: unknown, expected some of ocr"),
        (["context", "--size", "512"], "--size 512: expected C,H,W"),
        (["context", "--size", "512,0,3"], "--size 512,0,3: expected numbers of 1 or more"),
        (["context", "--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["context", "--runs", "0"], "--runs 0: expected 1 or more"),
        (["context", "--num-regions", "0"], "--num-regions 0: expected 1 or more"),
        (["context", "--dtype", "int8"], "int8"),
        (["context", "--json", "/dev/null/rows.json"], "--json: /dev/null: "),
        (["context", "--json", "."], "--json .: is a folder, expected a file"),
        (["context", "--size", "512,4194304,4194304", "--names", "ocr"], "has not enough memory"),
        (["merging", "--instances", "0"], "--instances 0: expected 1 or more"),
        (["merging", "--device", "tpu"], "--device tpu: expected cpu or cuda"),
        ([], "command"),
    ],
)
def test_mistakes_are_one_line(main, capsys, argv, message):
    assert main(argv) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_the_published_row_stands_beside_the_same_size():
    row = Measurement(
        *("ocr", (2048, 128, 128), "cpu", "float32", 10_620_000, 337_900_000_000, 1, 1.0, 0.0),
        published=asdict(SCHEMES["ocr"].published),
        ratio_to_products=1.0,
    )
    assert "| 10.62 M  | 10.5 M      | 337.9 G | 340 G " in format_table([row])


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
        [sys.executable, "tools/benchmark.py", "context", "--size", "512,4,4", "--runs", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "| ocr_textbook" in done.stdout
