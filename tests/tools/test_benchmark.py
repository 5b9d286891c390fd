"""benchmark.py context: counts against the paper's table, and the record it writes."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from ocr_panoptic.benchmark.context import Measurement, format_table, measure_schemes
from ocr_panoptic.benchmark.schemes import SCHEMES
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import REPOSITORY, load_tool

KEYS = {
    *("name", "size", "device", "dtype", "params", "flops", "peak_memory_bytes"),
    *("median_ms", "spread_ms", "published"),
}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/benchmark.py").main


def test_writes_what_it_prints(main, tmp_path, capsys):
    path = tmp_path / "rows.json"
    argv = ["context", "--size", "512,6,8", "--runs", "2", "--device", "cpu", "--json", str(path)]
    assert main(argv) == 0
    rows = json.loads(path.read_text())
    assert [row["name"] for row in rows] == ["ocr", "ocr_textbook"]
    table = capsys.readouterr().out
    for row in rows:
        assert set(row) == KEYS
        assert (row["size"], row["device"], row["dtype"]) == ([512, 6, 8], "cpu", "float32")
        assert row["peak_memory_bytes"] > 0
        assert row["spread_ms"] >= 0
        assert f"{row['median_ms']:.1f} ms" in table
        assert row["published"]["flops"] == 340e9
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
    )
    assert "| 10.62 M  | 10.5 M      | 337.9 G | 340 G " in format_table([row])


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
