import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr_panoptic.visualization.curves import draw_loss_curves
from ocr_panoptic.visualization.report import Example, MetricTable, Report, write_report

NASTY = '<b>&"quoted"'
VOID_ELEMENTS = {"meta", "link", "img"}


class Page(HTMLParser):
    """Collects what the tests ask about and checks that elements nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.images, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "img" and "src" in attributes:
            self.images.append(attributes)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def decode(uri):
    head, data = uri.split(",", 1)
    return head, Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    flat = np.full((30, 50, 3), (10, 20, 30), dtype=np.uint8)
    return noise, flat


@pytest.fixture
def report(pictures):
    noise, flat = pictures
    records = [{"iteration": i, "total_loss": 1.0, "loss_mask": 0.5} for i in range(30)]
    return Report(
        title=f"Title {NASTY}",
        subtitle="Subtitle",
        command="python tools/train_net.py --opts A 'b < c'",
        facts=[("Seed", "7"), (NASTY, NASTY)],
        metrics=[
            MetricTable(
                "Panoptic quality",
                ["", "PQ", "SQ"],
                [["All", 61.25, np.float32(70)], ["Stuff", None, float("nan")]],
                note="In percent.",
            )
        ],
        per_class=[
            MetricTable(
                "Per class",
                ["Class", "PQ", "TP"],
                [[NASTY, 12.345, 3], ["cat", None, 0], ["dog", 250.0, 1]],
                digits=2,
                bar_column="PQ",
            )
        ],
        losses_svg=draw_loss_curves(records),
        examples=[
            Example(
                name=f"{NASTY}.jpg",
                image=noise,
                ground_truth=flat,
                prediction=noise,
                regions=[("sky", flat), (NASTY, noise)],
                caption="Caption",
                quality=55.55,
                legend=[(NASTY, (1, 2, 3))],
            ),
            Example("second", noise, None, flat),
        ],
    )


@pytest.fixture
def text(tmp_path, report):
    return write_report(tmp_path / "new" / "report.html", report).read_text(encoding="utf-8")


def test_images_are_embedded_and_decodable(text, pictures):
    _, flat = pictures
    images = Page(text).images
    assert len(images) == 7
    for attributes in images:
        head, image = decode(attributes["src"])
        assert head in ("data:image/png;base64", "data:image/jpeg;base64")
        image.load()
        assert image.mode == "RGB"
        assert image.size == (int(attributes["width"]), int(attributes["height"]))
        assert attributes["alt"]
    head, image = decode(images[1]["src"])
    assert head.startswith("data:image/png")
    np.testing.assert_array_equal(np.asarray(image), flat)
    assert decode(images[0]["src"])[0].startswith("data:image/jpeg")


def test_page_needs_nothing_else(text):
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    assert not any("src" in attributes for attributes in page.tags("script"))


def test_page_states_what_browsers_and_readers_need(text):
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.tags("html")[0]["lang"] == "en"
    assert {"charset": "utf-8"} in page.tags("meta")
    assert any(meta.get("name") == "viewport" for meta in page.tags("meta"))
    assert page.texts.count(f"Title {NASTY}") == 2
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for section in page.tags("section"):
        assert section["aria-labelledby"] in ids


def test_names_are_escaped(text):
    page = Page(text)
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    assert f"{NASTY}.jpg" in page.texts
    # Fact label and value, class of the table, legend, region.
    assert page.texts.count(NASTY) == 5
    assert f"Soft object region of {NASTY} in {NASTY}.jpg" in [i["alt"] for i in page.images]


def test_numbers(text):
    page = Page(text)
    for cell in ("61.2", "70.0", "12.35", "3", "250.00"):
        assert cell in page.texts
    assert page.texts.count("\N{EN DASH}") == 3
    bars = [a["style"] for a in page.tags("td") if "style" in a]
    assert bars == ["--value: 12.3%", "--value: 0.0%", "--value: 100.0%"]


def test_loss_curves_are_inline(text):
    assert len(Page(text).tags("svg")) == 1


def test_empty_report(tmp_path):
    text = write_report(tmp_path / "report.html", Report("Nothing yet")).read_text()
    page = Page(text)
    assert page.images == []
    assert page.tags("section") == []
    assert page.tags("table") == []


def test_same_report_gives_identical_bytes(tmp_path, report):
    first = write_report(tmp_path / "a.html", report).read_bytes()
    assert write_report(tmp_path / "b.html", report).read_bytes() == first


@pytest.mark.parametrize("step", ["write_text", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing_behind(tmp_path, report, monkeypatch, step, error):
    path = tmp_path / "report.html"
    half_written = []

    def fail(self, text, **options):
        if step == "write_text":
            self.write_bytes(text[: len(text) // 2].encode())
        half_written.append(self)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(type(error)):
            write_report(path, report)
    assert len(half_written) == 1
    assert half_written[0] != path
    assert list(tmp_path.iterdir()) == []

    older = write_report(path, Report("Older")).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(type(error)):
            write_report(path, report)
    assert path.read_bytes() == older
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_tables_and_pictures(pictures):
    with pytest.raises(ValueError, match="a row has 1 cells, expected 2"):
        MetricTable("Title", ["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="no column 'c'"):
        MetricTable("Title", ["a", "b"], [], bar_column="c")
    with pytest.raises(ValueError, match=r"name: pictures must be \(H, W, 3\) uint8"):
        Example("name", pictures[0], None, pictures[1].astype(float))
    with pytest.raises(ValueError, match="name: pictures must be"):
        Example("name", pictures[0], pictures[0][..., 0], pictures[1])
