"""The categories of Shapes, and the look-alike pairs that only context tells apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Category", "LookAlikePair", "look_alike_answer"]


@dataclass(frozen=True)
class Category:
    """One category, in the fields of a COCO panoptic json, and how it is drawn.

    Attributes:
        id: sparse as in COCO: things below 100, stuff from 101, with gaps.
        name: unique among the categories of a data set.
        isthing: True for a countable category.
        supercategory: COCO's coarser name.
        color: RGB, uint8 values, for pictures of segmentations. A thing is also painted in it.
        texture: for stuff, the key of its texture in :data:`textures.TEXTURES`. Categories that
            name the same texture are drawn by the same random process.
    """

    id: int
    name: str
    isthing: bool
    supercategory: str
    color: tuple[int, int, int]
    texture: str = ""

    def to_json(self) -> dict:
        """Return the entry of a COCO panoptic json's ``categories``."""
        return {
            "id": self.id,
            "name": self.name,
            "isthing": int(self.isthing),
            "supercategory": self.supercategory,
            "color": list(self.color),
        }


@dataclass(frozen=True)
class LookAlikePair:
    """Two stuff categories with one texture, told apart by a cue elsewhere in the picture.

    Attributes:
        members: names of the two stuff categories.
        cues: names of the two deciding categories: where ``members[k]`` is in a picture, so is
            ``cues[k]``, and ``cues[1 - k]`` is not.
    """

    members: tuple[str, str]
    cues: tuple[str, str]


def look_alike_answer(pair: LookAlikePair, present: Collection[str]) -> str:
    """Name the member of ``pair`` that a picture can contain, from its cues alone.

    Args:
        pair: the look-alikes.
        present: names of the categories in the picture; the members themselves are not read.

    Raises:
        ValueError: if not exactly one of the two cues is present.
    """
    decided = [
        member for member, cue in zip(pair.members, pair.cues, strict=True) if cue in present
    ]
    if len(decided) != 1:
        raise ValueError(f"expected exactly one of {pair.cues} in the picture, got {len(decided)}")
    return decided[0]


def _thing(id: int, name: str, supercategory: str, color: tuple[int, int, int]) -> Category:
    return Category(id, name, True, supercategory, color)


def _stuff(
    id: int, name: str, supercategory: str, color: tuple[int, int, int], texture: str = ""
) -> Category:
    return Category(id, name, False, supercategory, color, texture or name)


THINGS = {
    category.name: category
    for category in (
        _thing(2, "ball", "toy", (214, 64, 58)),
        _thing(3, "crate", "cargo", (190, 122, 58)),
        _thing(5, "tent", "shelter", (240, 146, 36)),
        _thing(8, "starfish", "animal", (232, 92, 148)),
        _thing(9, "lifebuoy", "cargo", (236, 70, 40)),
        _thing(14, "leaf", "plant", (24, 120, 56)),
        _thing(17, "cross", "sign", (150, 40, 60)),
        _thing(18, "crescent", "sign", (248, 212, 70)),
        _thing(23, "heart", "sign", (206, 40, 110)),
        _thing(27, "hexagon", "cargo", (70, 72, 150)),
        _thing(31, "arrow", "sign", (30, 150, 156)),
        _thing(36, "flower", "plant", (156, 84, 190)),
    )
}

STUFF = {
    category.name: category
    for category in (
        _stuff(101, "grass", "ground", (118, 170, 84)),
        _stuff(103, "moss", "ground", (92, 148, 92)),
        _stuff(104, "pavement", "ground", (142, 142, 150)),
        _stuff(107, "gravel", "ground", (120, 116, 112)),
        _stuff(110, "sand", "ground", (226, 198, 138)),
        _stuff(112, "clay", "ground", (198, 150, 110)),
        _stuff(115, "snow", "ground", (236, 240, 246)),
        _stuff(116, "salt", "ground", (222, 214, 222)),
        _stuff(121, "lake", "water", (72, 140, 190), "water"),
        _stuff(124, "ice", "water", (150, 205, 225), "water"),
        _stuff(130, "forest", "plant", (34, 92, 62), "canopy"),
        _stuff(131, "orchard", "plant", (92, 116, 40), "canopy"),
        _stuff(137, "field", "ground", (176, 160, 70), "furrows"),
        _stuff(139, "fallow", "ground", (140, 110, 76), "furrows"),
        _stuff(142, "roof", "building", (176, 92, 78), "tiles"),
        _stuff(145, "plaza", "building", (206, 156, 146), "tiles"),
    )
}
