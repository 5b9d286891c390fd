"""The page of pictures: what it holds, what it needs, and that names cannot break it."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from ocr_panoptic.errors import InputError
from ocr_panoptic.visualization.gallery import (
    Gallery,
    GalleryClass,
    GalleryImage,
    gallery_file,
    write_gallery,
)

NASTY = "</script><b>&\"quoted'"
PANELS = {"input": "Input", "panoptic": "Prediction"}
VOID_ELEMENTS = {"meta", "link", "input", "img"}


class Page(HTMLParser):
    """Collects elements and texts and checks that elements nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def gallery(images=None, **changes):
    images = images or [
        GalleryImage("a.jpg", "a", (480, 360), 51.26, {7: 12.34, 90: None}),
        GalleryImage(NASTY, f"x/{NASTY} #%?", (10, 20), None, {90: 100.0}),
    ]
    content = {
        "title": f"Title {NASTY}",
        "subtitle": "a.json against b.json",
        "facts": [("Images", "2"), (NASTY, NASTY)],
        "panels": PANELS,
        "classes": [
            GalleryClass(7, "猫", (1, 2, 3)),
            GalleryClass(8, "not used", (4, 5, 6)),
            GalleryClass(90, NASTY, (7, 8, 9)),
        ],
        "images": images,
        "with_quality": True,
    }
    return Gallery(**{**content, **changes})


@pytest.fixture
def text(tmp_path):
    path = write_gallery(tmp_path / "out", gallery())
    assert path == tmp_path / "out" / "index.html"
    return path.read_text(encoding="utf-8")


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_data(text):
    data = data_of(text)
    assert data["quality"] is True
    assert data["panels"] == [
        {"title": "Input", "suffix": ".input.jpg"},
        {"title": "Prediction", "suffix": ".panoptic.jpg"},
    ]
    # Only those that occur.
    assert data["classes"] == [["猫", "rgb(1 2 3)"], [NASTY, "rgb(7 8 9)"]]
    first, second = data["images"]
    assert first == {
        "name": "a.jpg",
        "src": "index_files/a",
        "size": [480, 360],
        "pq": 51.3,
        "classes": [[0, 12.3], [1, None]],
    }
    assert (second["name"], second["pq"]) == (NASTY, None)


def test_pictures_are_beside_the_page_whatever_their_names(text):
    for image, row in zip(gallery().images, data_of(text)["images"], strict=True):
        for key, panel in zip(PANELS, data_of(text)["panels"], strict=True):
            address = row["src"] + panel["suffix"]
            assert re.fullmatch(r"[\w./%~-]+", address)
            assert Path(unquote(address)) == gallery_file(image.path, key)


def test_an_address_may_hold_bytes_that_are_no_text(tmp_path):
    image = replace(gallery().images[0], path=os.fsdecode(b"\xff"))
    path = write_gallery(tmp_path, gallery([image]))
    assert data_of(path.read_text(encoding="utf-8"))["images"][0]["src"] == "index_files/%FF"


def test_the_page_needs_nothing_else(text):
    page = Page(text)
    assert not re.search(r"https?:|@import|url\(", text)
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert not attributes.get(name, "").startswith(("/", "//"))
            assert ":" not in attributes.get(name, "").removeprefix("data:")
    assert not any("src" in attributes for attributes in page.tags("script"))


def test_names_are_escaped(text):
    page = Page(text)
    assert "<b>&" not in text
    assert f"Title {NASTY}" in page.texts
    # Data, styles and script are whole: a name did not end one of them.
    assert len(page.tags("script")) == 2
    assert page.texts.count(NASTY) == 3
    links = [attributes["href"] for attributes in page.tags("a")]
    assert [unquote(link) for link in links] == ["a.png", f"x/{NASTY} #%?.png"]
    assert "#" not in links[1]


def test_what_browsers_and_readers_need(text):
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.tags("html")[0]["lang"] == "en"
    assert {"charset": "utf-8"} in page.tags("meta")
    assert any(meta.get("name") == "viewport" for meta in page.tags("meta"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(" ".join(labels).split()) <= set(ids)
    # Every element that the script looks for, but for the order, which may be left out.
    script = text.split("<script>")[1]
    assert set(re.findall(r'get\("([\w-]+)"\)', script)) | {"data"} <= set(ids)


def test_the_order_is_asked_for_only_with_quality(tmp_path, text):
    assert {"value": "worst"} in Page(text).tags("option")
    path = write_gallery(tmp_path / "plain", gallery(with_quality=False))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags("select") == []
    assert data_of(path.read_text(encoding="utf-8"))["quality"] is False


def test_pictures_are_lazy_and_their_elements_few(tmp_path, text):
    images = [GalleryImage(f"{n}.jpg", f"{n}", (4, 3), n / 50, {7: n / 50}) for n in range(5000)]
    many = write_gallery(tmp_path / "many", gallery(images)).read_text(encoding="utf-8")
    assert Page(many).tags("img") == []
    # In a browser with scripts, what is in noscript is text.
    outside = [re.sub(r"<noscript>.*</noscript>", "", page, flags=re.S) for page in (text, many)]
    assert len(Page(outside[0]).elements) == len(Page(outside[1]).elements)
    assert len(many) < 200 * 5000 + len(text)
    assert 'loading: "lazy"' in many


def test_the_same_bytes(tmp_path, text):
    again = write_gallery(tmp_path / "again", gallery())
    assert again.read_text(encoding="utf-8") == text


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(InputError, match=r"index\.html: cannot be written \(Is a directory\)"):
        write_gallery(tmp_path, gallery())
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
