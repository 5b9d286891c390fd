"""What makes Shapes easy or hard: every parameter of the generator, once per difficulty."""

from __future__ import annotations

from dataclasses import dataclass

from ocr_panoptic.errors import InputError

from .categories import STUFF, THINGS, Category, LookAlikePair

__all__ = ["DIFFICULTIES", "EASY", "HARD", "Difficulty", "get_difficulty"]


@dataclass(frozen=True)
class Difficulty:
    """Parameters of one difficulty. Lengths are fractions of the image side unless in pixels.

    Attributes:
        name: what ``--difficulty`` takes.
        size: recommended image side, pixels.
        things: thing categories, sorted by id.
        stuff: stuff categories, sorted by id.
        pairs: look-alike pairs among ``stuff``.
        pairs_per_image: probability of 0, 1, 2, ... look-alike pairs in a picture.
        regions: least and greatest number of stuff regions in a picture.
        pair_regions: greatest number of regions given to one look-alike.
        region_warp: how far region borders wander from straight lines.
        cue_region_area: least part of the picture that a deciding stuff region covers.
        cue_radius: least and greatest radius of a deciding object.
        cue_distance: wanted distance of a deciding object from the region it decides.
        objects: least and greatest number of objects beside cues and crowds.
        radius: least and greatest radius of a large object.
        small_radius: least and greatest radius of a small object.
        small_share: probability that an object is small.
        overlap: probability that an object is put against an earlier one.
        crowd: probability of a crowd, for each of at most two classes per picture.
        void_regions: greatest number of unlabelled blobs.
        palette_pull: how far stuff colours are pulled to their common mean, 0 to 1.
        texture_contrast: factor on the amplitude of every texture.
        color_jitter: standard deviation of a texture's colour from picture to picture, 0 to 255.
        thing_color_jitter: the same for an object's colour.
        illumination: greatest relative change of brightness across and between pictures.
        noise: standard deviation of the sensor's noise, 0 to 255.
        min_thing_area: least visible part of the picture for an object to be annotated.
        min_stuff_area: the same for a stuff class.
    """

    name: str
    size: int
    things: tuple[Category, ...]
    stuff: tuple[Category, ...]
    pairs: tuple[LookAlikePair, ...]
    pairs_per_image: tuple[float, ...]
    regions: tuple[int, int]
    pair_regions: int
    region_warp: float
    cue_region_area: float
    cue_radius: tuple[float, float]
    cue_distance: float
    objects: tuple[int, int]
    radius: tuple[float, float]
    small_radius: tuple[float, float]
    small_share: float
    overlap: float
    crowd: float
    void_regions: int
    palette_pull: float
    texture_contrast: float
    color_jitter: float
    thing_color_jitter: float
    illumination: float
    noise: float
    min_thing_area: float
    min_stuff_area: float

    @property
    def categories(self) -> tuple[Category, ...]:
        """Things, then stuff, each sorted by id."""
        return self.things + self.stuff

    def category(self, name: str) -> Category:
        """Return the category called ``name``; KeyError where there is none."""
        return {category.name: category for category in self.categories}[name]


def _pick(table: dict[str, Category], names: str) -> tuple[Category, ...]:
    return tuple(sorted((table[name] for name in names.split()), key=lambda c: c.id))


EASY = Difficulty(
    name="easy",
    size=192,
    things=_pick(THINGS, "ball crate tent starfish lifebuoy leaf"),
    stuff=_pick(STUFF, "grass pavement sand snow lake ice"),
    pairs=(LookAlikePair(("lake", "ice"), ("sand", "snow")),),
    pairs_per_image=(0.25, 0.75),
    regions=(3, 4),
    pair_regions=1,
    region_warp=0.06,
    cue_region_area=0.14,
    cue_radius=(0.08, 0.12),
    cue_distance=0.0,
    objects=(3, 6),
    radius=(0.11, 0.19),
    small_radius=(0.06, 0.09),
    small_share=0.25,
    overlap=0.3,
    crowd=0.05,
    void_regions=1,
    palette_pull=0.0,
    texture_contrast=1.0,
    color_jitter=6.0,
    thing_color_jitter=10.0,
    illumination=0.08,
    noise=3.0,
    min_thing_area=0.0012,
    min_stuff_area=0.004,
)

HARD = Difficulty(
    name="hard",
    size=384,
    things=_pick(
        THINGS,
        "ball crate tent starfish lifebuoy leaf cross crescent heart hexagon arrow flower",
    ),
    stuff=_pick(
        STUFF,
        "grass moss pavement gravel sand clay snow salt "
        "lake ice forest orchard field fallow roof plaza",
    ),
    pairs=(
        LookAlikePair(("lake", "ice"), ("lifebuoy", "crescent")),
        LookAlikePair(("forest", "orchard"), ("leaf", "heart")),
        LookAlikePair(("field", "fallow"), ("flower", "cross")),
        LookAlikePair(("roof", "plaza"), ("hexagon", "arrow")),
    ),
    pairs_per_image=(0.05, 0.3, 0.4, 0.25),
    regions=(7, 11),
    pair_regions=2,
    region_warp=0.09,
    cue_region_area=0.0,
    cue_radius=(0.028, 0.042),
    cue_distance=0.25,
    objects=(7, 14),
    radius=(0.06, 0.15),
    small_radius=(0.022, 0.045),
    small_share=0.5,
    overlap=0.55,
    crowd=0.08,
    void_regions=3,
    palette_pull=0.5,
    texture_contrast=0.65,
    color_jitter=14.0,
    thing_color_jitter=26.0,
    illumination=0.16,
    noise=11.0,
    min_thing_area=0.0004,
    min_stuff_area=0.002,
)

DIFFICULTIES = {difficulty.name: difficulty for difficulty in (EASY, HARD)}


def get_difficulty(name: str) -> Difficulty:
    """Return the parameters called ``name``.

    Raises:
        InputError: if there is no such difficulty.
    """
    if name not in DIFFICULTIES:
        expected = " or ".join(DIFFICULTIES)
        raise InputError(f"--difficulty {name}: unknown, expected {expected}")
    return DIFFICULTIES[name]
