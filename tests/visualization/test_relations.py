"""What context blocks look at from a pixel: the maps, the regions, and their pictures."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from PIL import Image
from torch import nn

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import InterlacedSparseSelfAttention, NonLocal, OCRModule, SelfAttention
from ocr_panoptic.visualization.capture import padded_size, recorded_arguments, without_padding
from ocr_panoptic.visualization.page import draw_heat
from ocr_panoptic.visualization.relation_pictures import (
    draw_relations,
    region_bars,
    write_relations,
)
from ocr_panoptic.visualization.relations import (
    PixelRelations,
    RelationMap,
    context_blocks,
    look,
    pixel_cell,
    relations_of_pixels,
)

from ..models import small_model

# 50 x 70 pixels at twice their size: 100 x 140, padded to 128 x 160, of which res4 has 8 x 10
# cells. The image covers 6.25 x 8.75 of them.
SIZE, RESIZED, PADDED, CELLS = (50, 70), (100, 140), (128, 160), (8, 10)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
INPUTS = {
    "image": torch.as_tensor(IMAGE.repeat(2, 0).repeat(2, 1).transpose(2, 0, 1).copy()),
    "height": SIZE[0],
    "width": SIZE[1],
}
BACKBONE_BLOCK = "backbone.bottom_up.res4.1.context.layer"
TITLES = {
    "isa": ["global relation", "local relation", "dense relation (eq. 9)"],
    "non_local": ["dense relation"],
    "self_attention": ["dense relation"],
}


def context_model(name, *overrides, head="baseline"):
    """Return a small model with a context in its backbone, that looks at more than one cell."""
    architecture = "PaddingAwarePanopticFPN"
    if head is None:
        architecture = "PaddingAwareGeneralizedRCNN"
    settings = [
        *("MODEL.META_ARCHITECTURE", architecture),
        *("MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone"),
        *("MODEL.RESNETS.CONTEXT.NAME", name, "MODEL.RESNETS.CONTEXT.NORM", "BN"),
        *("MODEL.RESNETS.CONTEXT.PARTITIONS", (4, 3)),
    ]
    model = small_model(head or "baseline", [*settings, *overrides]).eval()
    for layer in model.modules():
        if isinstance(layer, SelfAttention | NonLocal):
            # Features of a random network are large, and its softmax all or nothing.
            last = layer.query if isinstance(layer, NonLocal) else layer.query[-1].norm
            nn.init.constant_(last.bias, 0)
            last.weight.data *= 1e-4
    return model


@pytest.fixture(scope="module")
def ocr_model():
    return small_model("ocr").eval()


def arguments_of(model):
    """Return what the blocks of a model are called with on INPUTS, found without the package."""
    seen = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, args, kwargs: seen.update({layer: (args, kwargs)}), with_kwargs=True
        )
        for layer in context_blocks(model).values()
    ]
    with torch.no_grad():
        model([INPUTS])
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", list(TITLES))
@pytest.mark.parametrize("head", ["baseline", None])
def test_maps_are_those_of_the_layer_at_the_pixels_cell(name, head):
    model = context_model(name, head=head)
    # Pixel (40, 21) is (81, 43) when doubled: row 43 // 16, column 81 // 16.
    (found,) = relations_of_pixels(model, INPUTS, [(40, 21)])
    assert (found.pixel, found.block, found.cell) == ((40, 21), BACKBONE_BLOCK, (2, 5))
    assert found.extent == (6.25, 8.75)
    assert found.regions is None
    assert [part.title for part in found.maps] == TITLES[name]

    ((layer, (args, kwargs)),) = arguments_of(model).items()
    mask = kwargs["padding_mask"]
    assert mask.any()
    expected = layer.relation(args[0], (2, 5), mask)
    for part, weights in zip(found.maps, expected if name == "isa" else [expected], strict=True):
        assert weights.shape == (1, *CELLS)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        assert part.weights.dtype == torch.float32
        # The image reaches into 7 x 9 cells; nothing lies on the padding.
        torch.testing.assert_close(part.weights, weights[0, :7, :9], rtol=0, atol=0)
        torch.testing.assert_close(part.weights.sum(), torch.tensor(1.0))


def test_the_stages_of_isa_look_at_their_own_cells():
    (found,) = relations_of_pixels(context_model("isa"), INPUTS, [(40, 21)])
    global_, local, dense = found.maps
    seen = torch.zeros(7, 9, dtype=torch.bool)
    # From cell (2, 5), every fourth row and every third column.
    seen[2::4, 2::3] = True
    assert ((global_.weights > 0) == seen).all()
    assert [part.spacing for part in found.maps] == [(4, 3), (1, 1), (1, 1)]
    seen = torch.zeros(7, 9, dtype=torch.bool)
    seen[0:4, 3:6] = True
    assert ((local.weights > 0) == seen).all()
    assert (dense.weights > 0).all()


def test_a_single_stage_is_one_map():
    model = context_model("isa", "MODEL.RESNETS.CONTEXT.ORDER", ("local",))
    (found,) = relations_of_pixels(model, INPUTS, [(0, 0)])
    assert [part.title for part in found.maps] == ["local relation"]


def test_without_a_mask_the_rest_lies_on_the_padding():
    model = context_model("self_attention", "MODEL.RESNETS.CONTEXT.MASK_PADDING", False)
    (found,) = relations_of_pixels(model, INPUTS, [(40, 21)])
    (part,) = found.maps
    assert part.weights.shape == (7, 9)
    assert 0.5 < part.weights.sum() < 0.999


def test_regions_are_those_of_the_layer(ocr_model):
    pixels = [(0, 0), (69, 49), (40, 21)]
    found = relations_of_pixels(ocr_model, INPUTS, pixels)
    ((layer, (args, kwargs)),) = arguments_of(ocr_model).items()
    assert isinstance(layer, OCRModule)
    with torch.no_grad():
        _, expected = layer.regions_and_relations(*args, **kwargs)
    assert expected.shape == (1, 7, 32, 40)
    # Of stride 4: (139 // 4, 99 // 4), and (81 // 4, 43 // 4).
    cells = [(0, 0), (24, 34), (10, 20)]
    assert [entry.cell for entry in found] == cells
    assert [entry.pixel for entry in found] == pixels
    for entry, (row, column) in zip(found, cells, strict=True):
        assert entry.block == "sem_seg_head.ocr"
        assert not entry.maps
        torch.testing.assert_close(entry.regions, expected[0, :, row, column], rtol=0, atol=0)
        torch.testing.assert_close(entry.regions.sum(), torch.tensor(1.0))


def test_several_blocks_and_pixels_are_all_there():
    model = context_model("isa", head="ocr")
    found = relations_of_pixels(model, INPUTS, [(3, 4), (50, 20)])
    blocks = [BACKBONE_BLOCK, "sem_seg_head.ocr"]
    assert [(entry.pixel, entry.block) for entry in found] == [
        (pixel, block) for pixel in [(3, 4), (50, 20)] for block in blocks
    ]
    # The stages of isa are self-attentions, and a part of it.
    assert list(context_blocks(model)) == blocks


def test_the_model_is_left_as_it_was(ocr_model):
    relations_of_pixels(ocr_model, INPUTS, [(0, 0)])
    assert all(not module._forward_pre_hooks for module in ocr_model.modules())
    assert not ocr_model.training


def test_a_model_without_a_block_is_an_input_error():
    with pytest.raises(InputError, match="the model has no context block, expected MODEL"):
        relations_of_pixels(small_model("baseline").eval(), INPUTS, [(0, 0)])


@pytest.mark.parametrize("name", ["isa", "ocr"])
def test_weights_that_diverged_are_an_input_error(name):
    model = small_model("ocr").eval() if name == "ocr" else context_model(name)
    for layer in context_blocks(model).values():
        if isinstance(layer, InterlacedSparseSelfAttention):
            layer = layer.relations["local"]
        nn.init.constant_(layer.query[0].weight, float("nan"))
    with pytest.raises(InputError, match="its relations are not finite"):
        relations_of_pixels(model, INPUTS, [(0, 0)])


def test_look_is_lazy_and_keeps_the_whole_map():
    torch.manual_seed(0)
    layer = InterlacedSparseSelfAttention(8, norm="BN", partitions=(2, 2)).eval()
    feats = torch.randn(1, 8, 5, 6)
    results = look(layer, {"feats": feats}, [(0, 0), (4, 5)])
    for cell, (maps, regions) in zip([(0, 0), (4, 5)], results, strict=True):
        assert regions is None
        for part, expected in zip(maps, layer.relation(feats, cell), strict=True):
            assert part.weights.shape == (5, 6)
            torch.testing.assert_close(part.weights, expected[0], rtol=0, atol=0)
            if part.title != "local relation":
                # Of a window that the border cuts off, padding has a share.
                torch.testing.assert_close(part.weights.sum(), torch.tensor(1.0))


def test_every_pixel_has_the_cell_its_centre_lies_in():
    for x in range(SIZE[1]):
        for y in range(SIZE[0]):
            row, column = pixel_cell((x, y), SIZE, RESIZED, PADDED, CELLS)
            assert row == int((y + 0.5) * 2 / 16)
            assert column == int((x + 0.5) * 2 / 16)
    # The middle of three pixels begins in the first of two cells; its centre is the second's.
    assert pixel_cell((1, 1), (3, 3), (4, 4), (4, 4), (2, 2)) == (1, 1)
    # Made smaller, the last pixel stays in the image.
    assert pixel_cell((999, 999), (1000, 1000), (33, 33), (64, 64), (16, 16)) == (8, 8)


def test_arguments_are_recorded_by_name_before_they_are_changed():
    class InPlace(nn.Module):
        def forward(self, feats, *, padding_mask=None):
            return feats.add_(1)

    layer, feats = InPlace(), torch.zeros(2)
    with recorded_arguments([layer]) as calls:
        layer(feats, padding_mask=None)
    assert calls[layer]["padding_mask"] is None
    torch.testing.assert_close(calls[layer]["feats"], torch.zeros(2))
    assert not layer._forward_pre_hooks


def test_hooks_are_gone_after_an_error():
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), recorded_arguments([layer]):
        layer(torch.zeros(3))
    assert not layer._forward_pre_hooks


def test_padding_is_that_of_the_model(ocr_model):
    assert padded_size(ocr_model, INPUTS) == PADDED
    assert without_padding(torch.zeros(2, 3, *CELLS), ocr_model, INPUTS).shape == (2, 3, 7, 9)


def entry_of(*maps, regions=None, pixel=(40, 21), extent=(6.25, 8.75), cell=(2, 5)):
    return PixelRelations(pixel, "a.block", "a kind", cell, extent, maps, regions)


def panel_of(picture, index, size=(343, 480)):
    """Return a panel of a picture: 480 pixels wide, at the place where the page has it."""
    left = 28 + index * (480 + 24)
    return picture[104 : 104 + size[0], left : left + size[1]]


def test_pictures_hold_the_image_and_the_heat_of_each_map():
    # All weight on one cell, rows 16 to 31 and columns 80 to 95 of the resized image, and half as
    # much on the last, which padding cuts.
    weights = torch.zeros(7, 9)
    weights[1, 5], weights[6, 8] = 2 / 3, 1 / 3
    grey = np.full((50, 70, 3), 100, np.uint8)
    entry = entry_of(RelationMap("one", weights), RelationMap("two", weights), pixel=(10, 40))
    picture = draw_relations(grey, entry, name="image")
    # Three panels of 480 x 343, gaps, margins, heading and the scale of the heat.
    assert picture.shape == (104 + 343 + 30 + 28, 2 * 28 + 3 * 480 + 2 * 24, 3)
    assert picture.dtype == np.uint8
    plain = draw_heat(np.full((1, 1, 3), 100, np.uint8), np.zeros((1, 1)), 1.0)[0, 0]
    full, part = (
        draw_heat(np.full((1, 1, 3), 100, np.uint8), np.full((1, 1), w), 1.0)[0, 0]
        for w in (1.0, 0.5)
    )
    for index in (1, 2):
        panel = panel_of(picture, index)
        # 16 pixels are 54.86 of the panel's.
        assert (panel[55:109, 275:329] == full).all()
        assert (panel[330:, 439:] == part).all()
        outside = np.ones(panel.shape[:2], bool)
        outside[54:110, 274:330] = outside[329:, 438:] = False
        # The ring, at (10.5, 40.5) / 70 * 480.
        outside[262:294, 56:88] = False
        assert (panel[outside] == plain).all()
        assert (panel[278 - 9, 72] > 200).all()
        assert (panel[278 - 12, 72] < 60).all()
        assert (panel[278, 72] == plain).all()


@pytest.mark.parametrize("pixel", [(0, 0), (69, 49), (40, 21)])
def test_the_ring_is_around_the_pixel(pixel):
    grey = np.full((50, 70, 3), 100, np.uint8)
    picture = draw_relations(grey, entry_of(pixel=pixel, regions=torch.ones(2) / 2))
    changed = (panel_of(picture, 0) != 100).any(2)
    ys, xs = np.nonzero(changed)
    scale = 480 / 70
    distance = np.hypot(ys + 0.5 - (pixel[1] + 0.5) * scale, xs + 0.5 - (pixel[0] + 0.5) * scale)
    assert changed.any()
    assert (distance > 4).all()
    assert (distance < 14).all()


def test_the_first_panel_is_the_image():
    large = np.random.default_rng(1).integers(0, 256, (60, 480, 3), dtype=np.uint8)
    picture = draw_relations(large, entry_of(pixel=(5, 5), regions=torch.ones(3) / 3))
    np.testing.assert_array_equal(panel_of(picture, 0, (60, 480))[:, 30:], large[:, 30:])


def test_far_apart_cells_are_drawn_larger_and_apart():
    # 60 x 60 cells of 8 pixels: those of spacing 8 grow to 3 x 3, of 1 they stay as they are.
    grey = np.full((480, 480, 3), 100, np.uint8)
    weights = torch.zeros(60, 60)
    weights[4::8, 4::8] = 1 / 64
    maps = [RelationMap("", weights, (8, 8)), RelationMap("", weights)]
    picture = draw_relations(grey, entry_of(*maps, extent=(60.0, 60.0), pixel=(470, 470)))
    plain = draw_heat(np.full((1, 1, 3), 100, np.uint8), np.zeros((1, 1)), 1.0)[0, 0]
    for index, side in ((1, 24), (2, 8)):
        hot = (panel_of(picture, index, (400, 400)) != plain).any(2)
        start = 4 * 8 + 4 - side // 2
        assert hot[start : start + side, start : start + side].all()
        assert hot[:64, :64].sum() == side * side


def test_zero_weights_and_narrow_images_can_be_drawn():
    entry = entry_of(RelationMap("nothing", torch.zeros(1, 90)), extent=(0.1, 90.0), pixel=(3, 0))
    assert draw_relations(np.zeros((1, 900, 3), np.uint8), entry).shape[1] == 2 * 28 + 2 * 480 + 24


def test_weight_outside_the_image_is_said():
    image = np.zeros((50, 70, 3), np.uint8)
    weights = torch.full((7, 9), 1 / 63)
    said, written = (
        draw_relations(image, entry_of(RelationMap(title, part)))
        for title, part in (("local", weights / 2), ("local, 50% in the image", weights))
    )
    # The same title, above maps whose scales differ.
    assert np.array_equal(said[:100], written[:100])
    unsaid = draw_relations(image, entry_of(RelationMap("local", weights)))
    assert not np.array_equal(said[:100], unsaid[:100])


def test_a_wrong_image_is_refused():
    with pytest.raises(ValueError, match="image must be"):
        draw_relations(np.zeros((4, 4), np.uint8), entry_of())


@pytest.fixture
def metadata():
    return Metadata(name="three").set(
        stuff_classes=["things", "grass", "sky"],
        stuff_colors=[(0, 0, 0), (40, 160, 60), (120, 180, 240)],
    )


def test_bars_are_the_regions_largest_first(metadata):
    bars = region_bars(torch.tensor([0.2, 0.5, 0.3]), metadata)
    assert [(bar.name, bar.color) for bar in bars] == [
        ("grass", (40, 160, 60)),
        ("sky", (120, 180, 240)),
        ("things", (0, 0, 0)),
    ]
    np.testing.assert_allclose([bar.weight for bar in bars], [0.5, 0.3, 0.2], rtol=1e-6)


def test_the_smallest_regions_are_one_bar(ocr_model):
    weights = torch.rand(54, generator=torch.Generator().manual_seed(0)).softmax(0)
    bars = region_bars(weights)
    assert len(bars) == 13
    assert [bar.name for bar in bars[:12]] == [
        f"region {index}" for index in weights.argsort(descending=True)[:12].tolist()
    ]
    assert bars[-1].name == "42 others"
    np.testing.assert_allclose(sum(bar.weight for bar in bars), 1, rtol=1e-6)


@pytest.mark.parametrize("classes", [None, ["one"]])
def test_regions_without_names_are_numbered(classes):
    metadata = Metadata(name="unknown")
    if classes:
        metadata.set(stuff_classes=classes)
    bars = region_bars([0.3, 0.7], metadata)
    assert [bar.name for bar in bars] == ["region 1", "region 0"]


def test_the_chart_grows_with_the_weights():
    def filled(weights):
        chart = draw_relations(IMAGE, entry_of(regions=torch.tensor(weights)))[:, 28 + 504 :]
        # The first region's colour in the second bar's row.
        return (chart[104 + 28 + 8] == region_bars(weights)[1].color).all(1).sum()

    assert filled([0.9, 0.1]) * 4 < filled([0.6, 0.4])


def test_odd_names_are_drawn(metadata):
    metadata.stuff_classes[0] = "a class\nof two lines, and of many words that nobody can read"
    entry = entry_of(regions=torch.tensor([0.6, 0.3, 0.1]))
    plain = draw_relations(IMAGE, entry, metadata=metadata, name="an image\n\udcff" + 300 * "x")
    assert plain.shape == draw_relations(IMAGE, entry, metadata=metadata).shape


def test_files_are_named_after_what_they_show_and_come_out_the_same(tmp_path, ocr_model):
    found = relations_of_pixels(ocr_model, INPUTS, [(3, 4), (50, 20)])
    once, again = (
        list(write_relations(tmp_path / folder, "photo.of", IMAGE, found, model="isa.v2"))
        for folder in "ab"
    )
    assert once == [
        tmp_path / "a" / name
        for name in (
            "photo.of_3_4_isa.v2_sem_seg_head.ocr.png",
            "photo.of_50_20_isa.v2_sem_seg_head.ocr.png",
        )
    ]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert sorted((tmp_path / "a").iterdir()) == sorted(once)
    with Image.open(once[0]) as picture:
        np.testing.assert_array_equal(
            np.asarray(picture), draw_relations(IMAGE, found[0], name="photo.of", model="isa.v2")
        )


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    name = 300 * "x"
    with pytest.raises(InputError, match=r"x_40_21_m_a.block.png: cannot be written \(File name"):
        list(write_relations(tmp_path, name, IMAGE, [entry_of(regions=torch.ones(1))], model="m"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_oc_sa", ["sem_seg_head.context.context"]),
        ("ocr_da_relation", ["sem_seg_head.context"]),
        ("pyramid_oc_sa", []),
        ("asp_oc_isa", []),
    ],
)
def test_blocks_that_look_at_another_map_are_not_shown(name, expected):
    head = [
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", name, "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 32),
    ]
    assert list(context_blocks(small_model("baseline", head))) == expected
