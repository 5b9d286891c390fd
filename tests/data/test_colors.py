"""The colours of classes: fixed, unlike each other, one for everything that draws."""

import json

import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.data.colors import category_colors
from ocr_panoptic.data.register import panoptic_metadata
from ocr_panoptic.evaluation.results import result_categories
from ocr_panoptic.visualization.saved_json import load_categories

from ..panoptic_sets import SPARSE, STUFF, THINGS


def rows(ids):
    return [{"id": number, "name": f"class {number}", "isthing": number % 2} for number in ids]


# Ids whose colours would be one, were they made of the ids.
@pytest.mark.parametrize("categories", [SPARSE, STUFF, THINGS, rows([300, 12000, 7, 91, 0])])
def test_truth_training_and_predictions_have_one_colour(categories, tmp_path):
    colors = category_colors(categories)
    metadata = panoptic_metadata(categories)
    trained = {}
    for kind in ("thing", "stuff"):
        for key, label in metadata[f"{kind}_dataset_id_to_contiguous_id"].items():
            trained[key] = tuple(metadata[f"{kind}_colors"][label])
    assert colors.items() <= trained.items()
    predicted = result_categories(metadata)
    assert {row["id"]: tuple(row["color"]) for row in predicted} == colors
    for name, content in (("truth", categories), ("results", predicted)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"categories": content}))
        assert {row.id: row.color for row in load_categories(path)} == colors
    assert len(set(colors.values())) == len(categories)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**6), unique=True, max_size=180), st.randoms())
def test_they_differ_and_the_order_does_not_matter(ids, random):
    categories = rows(ids)
    colors = category_colors(categories)
    assert colors.keys() == set(ids)
    assert len(set(colors.values())) == len(ids)
    # Grey is void.
    assert all(len(set(color)) > 1 for color in colors.values())
    random.shuffle(categories)
    assert category_colors(categories) == colors


def test_given_colours_are_kept_and_not_given_twice():
    first = category_colors(rows([1]))[1]
    given_color = {"id": 2, "name": "x", "isthing": 0, "color": list(first)}
    colors = category_colors([*rows([1]), given_color])
    assert colors[2] == first
    assert colors[1] != first


def test_there_is_a_colour_for_any_number_of_categories():
    assert len(category_colors(rows(range(20_000)))) == 20_000
    colors = category_colors(rows(range(1000)))
    assert len(colors) == 1000
    taken = [
        {**row, "color": list(color)}
        for row, color in zip(rows(colors), colors.values(), strict=True)
    ]
    assert category_colors([*taken, *rows([1000])])[1000] not in colors.values()


def test_coco_has_detectron2s():
    assert category_colors(COCO_CATEGORIES) == {
        row["id"]: tuple(row["color"]) for row in COCO_CATEGORIES
    }
    without = [{**row, "color": None} for row in COCO_CATEGORIES]
    assert category_colors(without) == category_colors(COCO_CATEGORIES)
