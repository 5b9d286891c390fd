"""What benchmark.py says of the device: time that is waited for, memory that is there."""

import json

import pytest
import torch

from ocr_panoptic.benchmark.measure import interleaved_times, measure_footprint, section
from ocr_panoptic.benchmark.schemes import registered_schemes

from ..conftest import load_tool
from ..models import SMALL, TINY
from .device import DEVICE, needs_device

pytestmark = needs_device

MIB = 2**20


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/benchmark.py").main


def test_the_peak_is_what_is_allocated():
    kept = torch.ones(MIB, device=DEVICE)  # 4 MiB that are there before

    def call():
        with section("small"):
            small = kept + 1
        with section("large"):
            large = torch.cat([small, small, small, small])
        return large

    call()
    footprint = measure_footprint(call, DEVICE)
    assert footprint.peak_bytes == pytest.approx(20 * MIB, rel=1e-3)
    assert footprint.sections == pytest.approx({"small": 4 * MIB, "large": 20 * MIB}, rel=1e-3)


def test_times_are_those_of_the_device_not_of_the_launch():
    side, dtype = (8192, torch.bfloat16) if DEVICE == "cuda" else (512, torch.float32)
    factor = torch.randn(side, side, device=DEVICE, dtype=dtype)
    times = interleaved_times({"product": lambda: factor @ factor}, DEVICE, runs=3)["product"]
    assert len(times) == 3
    # No device computes 10^16 FLOPs in a second: a launch alone would seem to.
    assert min(times) > 1e3 * 2 * side**3 / 1e16


def test_every_scheme_in_every_mode(main, tmp_path, capsys):
    path = tmp_path / "rows.json"
    argv = ["context", "--size", "512,12,14", "--runs", "2", "--device", DEVICE]
    argv += ["--dtype", "float32", "bfloat16", "--mode", "forward", "training"]
    assert main([*argv, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["name"] for row in rows] == registered_schemes() * 4
    flops = {}
    for row in rows:
        assert row["device"] == DEVICE
        assert row["median_ms"] > 0
        kind = row["dtype"], row["mode"]
        flops.setdefault(row["name"], {})[kind] = row["flops"]
        if row["name"] == "label_ensemble":
            continue  # it returns its input
        # At least the result, of as many channels as regions at the least.
        itemsize = 2 if row["dtype"] == "bfloat16" else 4
        assert row["peak_memory_bytes"] >= row["batch"] * 12 * 14 * itemsize * 54
    for name, counted in flops.items():
        # Forward of one image, and forward and backward of two.
        assert counted["float32", "forward"] == counted["bfloat16", "forward"]
        forward, training = (counted["float32", mode] for mode in ("forward", "training"))
        assert (forward == 0) == (name in ("label_ensemble", "label_refinement"))
        # Six times as much, but that the inference form of a scheme may have more or less to do.
        assert 3 * forward <= training or forward == 0
    assert f", {DEVICE}, forward and backward" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_a_model_and_its_parts(main, tmp_path, mode):
    path = tmp_path / "model.json"
    argv = ["model", "--config-file", str(TINY["ocr"]), "--size", "96,128", "--device", DEVICE]
    argv += ["--mode", mode, "--batch", "2", "--runs", "2", "--json", str(path), "--opts"]
    assert main([*argv, *map(str, SMALL)]) == 0
    cost = json.loads(path.read_text())
    assert cost["device"] == DEVICE
    parts = cost["parts"]
    last = "backward" if mode == "training" else "merging"
    assert next(iter(parts)) == "preprocessing"
    assert list(parts)[-1] == last
    assert sum(part["flops"] for part in parts.values()) == cost["flops"]
    for name in ("backbone", "sem_seg_head", "roi_heads", last):
        assert parts[name]["peak_memory_bytes"] > 0
        assert parts[name]["median_ms"] > 0
    # Measured in two calls: of the caching allocator's own, to the byte, but for workspaces.
    largest = max(part["peak_memory_bytes"] for part in parts.values())
    assert largest == pytest.approx(cost["peak_memory_bytes"], rel=0.1)


def test_the_merge(main, tmp_path):
    path = tmp_path / "merging.json"
    argv = ["merging", "--instances", "20", "--device", DEVICE, "--runs", "2"]
    assert main([*argv, "--json", str(path)]) == 0
    cost = json.loads(path.read_text())
    assert cost["device"] == DEVICE
    assert cost["median_ms"] > 0
