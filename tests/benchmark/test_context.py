"""Context schemes side by side: counts against the papers' tables, rows, table and plot."""

from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from ocr_panoptic.benchmark.context import Measurement, measure_schemes
from ocr_panoptic.benchmark.context_report import format_table, report_context
from ocr_panoptic.benchmark.measure import DTYPES, count_flops
from ocr_panoptic.benchmark.plot import draw_costs
from ocr_panoptic.benchmark.published import FROM_RES5, PUBLISHED
from ocr_panoptic.benchmark.schemes import FORMS, build_scheme, registered_schemes
from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import ContextLayer
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY

# Params are those of another reading there: the layers' docstrings say it.
OTHER_PARAMS = {"criss_cross", "danet"}
# In their inference form they take less than what the papers count.
FOLDED = {"base_oc_isa", "pyramid_oc_isa"}


def row(name="ocr", size=(2048, 128, 128), **changed):
    published = tuple(asdict(given) for given in PUBLISHED.get(name, ()))
    values = {
        **{"name": name, "size": size, "batch": 1, "device": "cpu", "dtype": "float32"},
        **{"mode": "forward", "params": 10_620_000, "flops": 337_900_000_000},
        **{"peak_memory_bytes": 2**28, "median_ms": 125.0, "spread_ms": 2.5},
        **{"published": published[0] if published else None, "published_rows": published},
        **{"reading": None, "ratio_to_products": 1.5},
    }
    return Measurement(**{**values, **changed})


def counted(name, size, num_classes=19):
    """Return parameters and FLOPs at a size that no memory is needed for."""
    module, classes = build_scheme(name, size[0], num_classes)
    module = module.eval().to("meta")
    shapes = [size] if classes is None else [size, (classes, *size[1:])]
    given = [torch.empty(1, *shape, device="meta") for shape in shapes]
    with torch.no_grad():
        flops = count_flops(lambda: module(*given))
    return sum(parameter.numel() for parameter in module.parameters()), flops


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, name) for name in PUBLISHED if name not in FOLDED),
        *((name, scheme) for name, (scheme, _) in FORMS.items() if scheme in PUBLISHED),
    ],
)
def test_counts_are_the_papers(name, scheme):
    # At the size of the tables, with Cityscapes' 19 classes.
    params, flops = counted(name, (2048, 128, 128))
    for published in PUBLISHED[scheme]:
        assert published.size == (2048, 128, 128)
        assert abs(flops / published.flops - 1) < 0.03
        if published.params is not None and name not in OTHER_PARAMS:
            assert abs(params / published.params - 1) < 0.03


@pytest.mark.parametrize("name", sorted(FOLDED))
def test_inference_forms_take_less_than_the_equations(name):
    params, flops = counted(name, (2048, 128, 128))
    textbook_params, textbook_flops = counted(f"{name}_textbook", (2048, 128, 128))
    assert params == textbook_params
    assert 0.9 < flops / textbook_flops < 1


def test_every_row_of_the_tables_has_a_scheme():
    assert set(PUBLISHED) | set(FROM_RES5) <= set(registered_schemes())
    sources = Counter(given.source for rows in PUBLISHED.values() for given in rows)
    assert sources == {"Segmentation Transformer (OCR), Table 4": 7, "OCNet, Table 4": 12}


@pytest.mark.parametrize("name", ["base_oc_sa", "base_oc_isa_textbook"])
def test_counts_are_those_of_a_count_by_hand(name):
    # OCNet, sec. 3.4: 3x3 from res5, values half as wide as the input, fusion with the pixels.
    positions, width = 16 * 16, 512
    half = width // 2
    transforms = 2 * (width * half + half * half) + 2 * width * half
    rest = 9 * 2048 * width + 2 * width * width
    stages, looked_at = (1, positions) if name == "base_oc_sa" else (2, 2 * 2 + 8 * 8)
    expected = 2 * positions * (rest + stages * transforms + 2 * looked_at * half)
    (found,) = measure_schemes([name], [(2048, 16, 16)], runs=1)
    assert found.flops == expected


def test_flops_of_ocr_are_those_of_the_equations():
    channels, key, classes, side = 512, 256, 19, 4
    folded, textbook = measure_schemes(
        ["ocr", "ocr_textbook"], [(channels, side, side)], num_regions=classes, runs=1
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


@pytest.mark.parametrize("name", FORMS)
def test_forms_compute_the_same(name):
    feats, inputs = torch.randn(1, 512, 16, 24), []
    found = []
    for each in (FORMS[name][0], name):
        torch.manual_seed(0)
        module, classes = build_scheme(each, 512)
        if classes is not None and not inputs:
            inputs.append(torch.randn(1, classes, 16, 24))
        with torch.no_grad():
            found.append(module.eval()(feats, *inputs))
    assert found[0].abs().max() > 0.1
    assert (found[1] - found[0]).abs().max() < 1e-5 * found[0].abs().max()


def test_a_new_scheme_is_measured_without_more(monkeypatch):
    class Pixels(ContextLayer):
        out_channels = 512

        def forward(self, feats, *, region_logits=None, padding_mask=None):
            return feats

    monkeypatch.setitem(CONTEXT_REGISTRY._obj_map, "pixels", lambda *arguments: Pixels())
    assert "pixels" in registered_schemes()
    (found,) = measure_schemes(["pixels"], [(8, 2, 3)], runs=1)
    assert found.flops == 2 * 6 * 9 * 8 * 512
    assert found.published is None
    assert found.published_rows == ()


def test_every_condition_is_measured_in_one_run():
    names = ("ocr_textbook", "ppm")
    sizes = ((512, 4, 4), (512, 8, 4))
    rows = measure_schemes(
        # A name is measured once.
        [*names, "ppm"],
        sizes,
        dtypes=["float32", "bfloat16"],
        modes=["forward", "training"],
        runs=1,
    )
    conditions = [(each.dtype, each.mode, each.size, each.name) for each in rows]
    assert conditions == [
        (dtype, mode, size, name)
        for dtype in ("float32", "bfloat16")
        for mode in ("forward", "training")
        for size in sizes
        for name in names
    ]
    by_condition = dict(zip(conditions, rows, strict=True))
    for (dtype, mode, size, name), found in by_condition.items():
        forward = by_condition[dtype, "forward", size, name]
        assert found.batch == (2 if mode == "training" else 1)
        assert found.params == forward.params
        if mode == "training":
            # Each product and its two gradients, of two images.
            assert found.flops == 2 * 3 * forward.flops
            # The gradients of all weights are among it.
            assert found.peak_memory_bytes > DTYPES[dtype].itemsize * found.params
    assert "batch of 2, bfloat16, cpu, forward and backward" in format_table(rows)


@pytest.mark.parametrize("name", registered_schemes())
def test_every_scheme_can_be_measured_in_training(name):
    (found,) = measure_schemes([name], [(512, 6, 6)], modes=["training"], num_regions=5, runs=1)
    assert found.flops >= 0
    assert found.peak_memory_bytes > 0


def test_true_labels_are_one_hot_maps(monkeypatch):
    seen = []

    class Watching(ContextLayer):
        uses_ground_truth = True
        out_channels = 512

        def forward(self, feats, *, region_logits=None, padding_mask=None):
            seen.append(region_logits)
            return feats

    monkeypatch.setitem(CONTEXT_REGISTRY._obj_map, "watching", lambda *arguments: Watching())
    measure_schemes(["watching"], [(8, 2, 3)], num_regions=4, dtypes=["bfloat16"], runs=1)
    maps = seen[0]
    assert maps.shape == (1, 4, 2, 3)
    assert maps.dtype == torch.bfloat16
    assert set(maps.unique().tolist()) == {0, 1}
    assert (maps.sum(dim=1) == 1).all()


@pytest.mark.parametrize("dense", ["sa", "self_attention"])
def test_isa_is_compared_with_dense_attention_as_in_the_figure(dense):
    figure = {"size": (512, 128, 128), "published_rows": ()}
    rows = [
        row("isa", flops=3_000, peak_memory_bytes=10, **figure),
        row(dense, flops=12_000, **figure),
        row("sa_explicit", peak_memory_bytes=80, **figure),
    ]
    text = format_table(rows)
    assert f"FLOPs of isa: 25.0 % of {dense}, alone (published: 24.6 %, OCNet Fig. 4" in text
    assert "Peak memory of isa: 12.5 % of sa_explicit (published: 10.2 %" in text
    for other in ({"size": (512, 64, 64)}, {"size": (2048, 128, 128)}, {"mode": "training"}):
        assert "Fig. 4" not in format_table([replace(each, **other) for each in rows])


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_published_row_stands_beside_the_same_size():
    rows = [row(), row("ppm"), row("cgnl", flops=400_000_000_000), row("isa")]
    text = format_table(rows)
    ocr = ["ocr", "10.62 M", "10.5 M", "337.9 G", "340 G", "256 MiB", "202 / - MiB", "125.0 ms"]
    assert cells(text, "ocr") == [*ocr, "2.5 ms", "45 / - ms", "1.000", "1.50"]
    assert cells(text, "ppm")[6] == "792 / 792 MiB"
    assert cells(text, "ppm")[9] == "99 / 78 ms"
    assert cells(text, "cgnl")[2:7:4] == ["", "- / 266 MiB"]
    assert [cells(text, "isa")[column] for column in (2, 4, 6, 9)] == [""] * 4
    assert (
        "Published: Segmentation Transformer (OCR), Table 4 (P40, CUDA 10.0) / OCNet, Table 4 "
        "(V100, CUDA 9.0, PyTorch 0.4.1)" in text
    )


@pytest.mark.parametrize("changed", [{"size": (512, 128, 128)}, {"batch": 2}, {"mode": "training"}])
def test_published_rows_are_of_inference_of_one_image_of_their_size(changed):
    text = format_table([row(**changed)])
    assert "published" not in text.lower()
    assert "340 G" not in text


def test_a_row_that_is_not_as_published_says_so():
    text = format_table(
        [
            row("danet", params=23_900_000, flops=1_110_000_000_000, reading="why"),
            row("ppm", params=23_100_000, flops=650_000_000_000),
            row("ocr", params=10_500_000),
            row("double_attention", flops=338_000_000_000, params=10_200_000, reading="how"),
        ]
    )
    assert "double_attention: how" in text.splitlines()
    assert "danet is not as published (params +125.5 %): why" in text
    assert "ppm is not as published (FLOPs +5.0 %)\n" in f"{text}\n"
    assert "ocr is not" not in text


def drawn(tmp_path, rows, name="costs.svg"):
    path = tmp_path / name
    draw_costs(rows, path)
    return path


def test_cost_is_drawn_against_size(tmp_path):
    rows = [
        row(name, (512, side, side), median_ms=side / factor)
        for factor, name in enumerate(("ocr", "isa"), start=1)
        for side in (32, 64, 128)
    ]
    svg = drawn(tmp_path, rows).read_text()
    assert svg == drawn(tmp_path, rows, "again.svg").read_text()
    # Three panels of two lines, each line with its legend.
    for text in ("FLOPs, G", "Peak memory, MiB", "Time, ms", "512 channels, float32, cpu, forward"):
        assert f"<!-- {text} -->" in svg
    assert svg.count("<!-- side of the input, positions -->") == 3
    # The dearest comes first, as its line ends at the top.
    assert svg.index("<!-- ocr -->") < svg.index("<!-- isa -->")


def test_sizes_with_one_longer_side_keep_their_places(tmp_path):
    sizes = [(512, 64, 16), (512, 64, 32), (512, 64, 64)]
    svg = drawn(tmp_path, [row(name, size) for name in ("ocr", "isa") for size in sizes])
    text = svg.read_text()
    assert text.count("<!-- height x width, positions -->") == 3
    for size in ("64x16", "64x32", "64x64"):
        assert text.count(f"<!-- {size} -->") == 3


def test_one_size_is_drawn_as_bars(tmp_path):
    svg = drawn(tmp_path, [row(), row("isa", median_ms=7.25)]).read_text()
    for text in ("2048x128x128, float32, cpu, forward", "7.25", "125", "338", "256"):
        assert f"<!-- {text} -->" in svg
    assert "side of the input" not in svg


def test_other_conditions_are_drawn_below(tmp_path):
    rows = [row(size=(512, side, side)) for side in (32, 64)]
    one = Image.open(drawn(tmp_path, rows, "one.png"))
    rows += [replace(each, mode="training", batch=2) for each in rows]
    two = Image.open(drawn(tmp_path, rows, "two.png"))
    assert two.width == one.width
    assert two.height == 2 * one.height


@pytest.mark.parametrize(
    ("sizes", "name", "message"),
    [
        (["8,4,4", "16,4,4"], "a.png", "--plot: sizes have different numbers of channels"),
        (
            ["8,4,9", "8,4,4", "8,9,4"],
            "a.png",
            "--plot: sizes 8,4,9 and 8,9,4 have equally many positions, expected different",
        ),
        (["8,4,4"], "a.gif", "a.gif: expected a name that ends in .png or .svg"),
        (["8,4,4"], "folder.png", "folder.png: is a folder, expected a file"),
    ],
)
def test_plots_that_cannot_be(tmp_path, sizes, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=message):
        report_context(["ocr"], sizes, plot=tmp_path / name)
