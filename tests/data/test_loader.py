"""The train loader: Detectron2's batches, and each sample a function of seed and number alone."""

import itertools
import random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build, build_detection_train_loader
from detectron2.data.build import get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from hypothesis import given, settings
from torch.utils.data import IterableDataset

from ocr_panoptic.data.loader import ResumableLoader, build_train_loader
from ocr_panoptic.data.mapper import PanopticDatasetMapper
from ocr_panoptic.errors import InputError
from ocr_panoptic.random_state import random_state, restore_random_state

from ..models import small_config

NAME = "test_shapes_train_separated"
# Everything in the mapper that draws.
AUGMENTED = [
    *("INPUT.MIN_SIZE_TRAIN", "(64, 80, 96)", "INPUT.CROP.ENABLED", True),
    *("INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", [0.6, 0.6]),
]


@pytest.fixture
def images():
    """A function that registers 30 images without files: the mapper gets their dicts."""
    registered = []

    def register(**changes):
        sizes = [(4, 3) if number % 3 else (3, 4) for number in range(30)]
        dicts = [
            {
                **{"file_name": f"{number}.png", "image_id": number, "width": w, "height": h},
                **{"annotations": [{"category_id": int(number == 7), "iscrowd": 0}]},
            }
            for number, (w, h) in enumerate(sizes)
        ]
        for number, change in changes.items():
            dicts[int(number.strip("_"))] = change
        name = f"test_loader_{len(registered)}"
        registered.append(name)
        DatasetCatalog.register(name, lambda: dicts)
        return name

    yield register
    for name in registered:
        DatasetCatalog.remove(name)


def config(name, **overrides):
    words = {"DATASETS.TRAIN": (name,), **{k.replace("__", "."): v for k, v in overrides.items()}}
    return small_config("ocr", [word for pair in words.items() for word in pair])


def identity(image):
    return {**image, "drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def take(loader, batches):
    return list(itertools.islice(iter(loader), batches))


def drawn(batches):
    return [[(image["image_id"], image["drawn"]) for image in batch] for batch in batches]


def as_rank(monkeypatch, rank, processes):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    monkeypatch.setattr(build, "get_world_size", lambda: processes)
    # What Detectron2's sampler asks the other processes for.
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 77)


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize(("rank", "processes"), [(0, 1), (1, 2)])
def test_the_images_are_those_of_detectron2(images, monkeypatch, grouping, rank, processes):
    cfg = config(images(), SOLVER__IMS_PER_BATCH=4, DATALOADER__ASPECT_RATIO_GROUPING=grouping)
    as_rank(monkeypatch, rank, processes)
    loader = build_train_loader(cfg, identity)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
    stock = build_detection_train_loader(
        dicts,
        mapper=lambda image: image,
        sampler=TrainingSampler(len(dicts), seed=77),
        total_batch_size=4,
        aspect_ratio_grouping=grouping,
    )
    expected = [[image["image_id"] for image in batch] for batch in take(stock, 40)]
    batches = take(loader, 40)
    assert [[image["image_id"] for image in batch] for batch in batches] == expected
    assert {len(batch) for batch in batches} == {4 // processes}
    mixed = [len({image["width"] > image["height"] for image in batch}) > 1 for batch in batches]
    assert any(mixed) != grouping


@settings(deadline=None, max_examples=40)
@given(
    wide=st.lists(st.booleans(), min_size=1, max_size=12),
    images_per_batch=st.integers(1, 5),
    done=st.integers(0, 12),
    seed=st.integers(0, 2**31 - 1),
)
def test_what_was_seen_is_skipped_and_not_read(wide, images_per_batch, done, seed):
    read = []
    dataset = [{"image_id": number} for number in range(len(wide))]

    def mapper(image):
        read.append(image["image_id"])
        return identity(image)

    def loader():
        return ResumableLoader(
            *(dataset, mapper, lambda seed: iter(TrainingSampler(len(wide), seed=seed)), wide),
            **{"images_per_batch": images_per_batch, "num_workers": 0, "seed": seed},
        )

    whole = drawn(take(loader(), done + 2))
    stopped = loader()
    assert drawn(take(stopped, done)) == whole[:done]
    assert stopped.state_dict() == {"seed": seed, "samples": done * images_per_batch}
    resumed = loader()
    resumed.seed += 1
    resumed.load_state_dict(stopped.state_dict())
    read.clear()
    assert drawn(take(resumed, 2)) == whole[done:]
    assert len(read) == 2 * images_per_batch


def equal(one, other):
    """Whether two batches of mapped images are, to the last bit."""
    for a, b in zip(one, other, strict=True):
        assert a["file_name"] == b["file_name"]
        for key in ("image", "sem_seg"):
            assert torch.equal(a[key], b[key])
        fields, others = (x["instances"].get_fields() for x in (a, b))
        assert torch.equal(fields["gt_boxes"].tensor, others["gt_boxes"].tensor)
        assert torch.equal(fields["gt_classes"], others["gt_classes"])
        masks = zip(fields["gt_masks"], others["gt_masks"], strict=True)
        assert all(np.array_equal(m, n) for p, q in masks for m, n in zip(p, q, strict=True))
    return True


def test_workers_read_the_same_and_nobody_draws_from_the_models_numbers(datasets_root, children):
    before = random_state()
    batches = {}
    for workers in (0, 1, 2):
        cfg = config(NAME, DATALOADER__NUM_WORKERS=workers)
        cfg.merge_from_list([str(word) for word in AUGMENTED])
        restore_random_state(before)
        expected = torch.rand(3).tolist(), np.random.rand(), random.random()
        restore_random_state(before)
        loader = build_train_loader(cfg, PanopticDatasetMapper(cfg, True))
        iterator = iter(loader)
        batches[workers] = [next(iterator) for _ in range(6)]
        assert len(children()) == workers
        assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == expected
        # The samples that workers read ahead do not count.
        assert loader.state_dict()["samples"] == 12
        del iterator
    for workers in (1, 2):
        assert all(equal(*pair) for pair in zip(batches[0], batches[workers], strict=True))
    # The mapper does draw.
    assert len({tuple(image["image"].shape) for batch in batches[0] for image in batch}) > 6


def test_processes_share_the_samples_of_one(images, monkeypatch):
    cfg = config(images(), SOLVER__IMS_PER_BATCH=6, DATALOADER__ASPECT_RATIO_GROUPING=False)
    as_rank(monkeypatch, 0, 1)
    loader = build_train_loader(cfg, identity)
    alone = drawn(take(loader, 8))
    shares = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        loader = build_train_loader(cfg, identity)
        shares.append(drawn(take(loader, 8)))
        assert loader.state_dict()["samples"] == 48
    for number, batch in enumerate(alone):
        together = zip(*(share[number] for share in shares), strict=True)
        assert [sample for samples in together for sample in samples] == batch


def test_another_batch_size_goes_on_near_the_same_sample(images):
    name = images()
    loader = build_train_loader(config(name, SOLVER__IMS_PER_BATCH=4), identity)
    take(loader, 5)
    larger = build_train_loader(config(name, SOLVER__IMS_PER_BATCH=8), identity)
    larger.load_state_dict(loader.state_dict())
    assert larger.state_dict()["samples"] == 16
    again = build_train_loader(config(name, SOLVER__IMS_PER_BATCH=8), identity)
    assert drawn(take(larger, 1)) == drawn(take(again, 3))[2:]


@pytest.mark.parametrize("sampler", ["RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_other_samplers_of_detectron2_go_on_too(images, sampler):
    overrides = {
        "DATALOADER__SAMPLER_TRAIN": sampler,
        "DATALOADER__REPEAT_THRESHOLD": 0.5,
        "DATALOADER__RANDOM_SUBSET_RATIO": 0.4,
    }
    name = images()
    loader = build_train_loader(config(name, **overrides), identity)
    whole = drawn(take(loader, 60))
    counts = np.bincount([image for batch in whole for image, _ in batch], minlength=30)
    if sampler == "RandomSubsetTrainingSampler":
        assert (counts > 0).sum() == 12
    else:
        # One image of 30 has a category that half of them should have.
        assert counts[7] >= 8
        assert (counts > 0).all()
    half = build_train_loader(config(name, **overrides), identity)
    take(half, 30)
    # Another seed before that of the state is loaded: another subset.
    resumed = build_train_loader(config(name, SEED=99, **overrides), identity)
    assert drawn(take(resumed, 30)) != whole[:30]
    resumed.load_state_dict(half.state_dict())
    assert drawn(take(resumed, 30)) == whole[30:]


def test_a_negative_seed_is_drawn_once(images):
    cfg = config(images(), SEED=-1)
    one, other = (build_train_loader(cfg, identity) for _ in range(2))
    assert one.seed != other.seed
    assert min(one.seed, other.seed) >= 0
    whole = drawn(take(one, 4))
    other.load_state_dict({"seed": one.seed, "samples": 4})
    assert drawn(take(other, 2)) == whole[2:]


def test_an_image_that_the_mapper_skips_is_replaced_by_a_function_of_its_number(images):
    def skip_even(image):
        return identity(image) if image["image_id"] % 2 else None

    cfg = config(images())
    loader = build_train_loader(cfg, skip_even)
    whole = drawn(take(loader, 20))
    assert all(image % 2 for batch in whole for image, _ in batch)
    kept = drawn(take(build_train_loader(cfg, identity), 20))
    for batch, full in zip(whole, kept, strict=True):
        for sample, first_choice in zip(batch, full, strict=True):
            assert sample == first_choice or not first_choice[0] % 2
    resumed = build_train_loader(cfg, skip_even)
    resumed.load_state_dict({"seed": loader.seed, "samples": 20})
    assert drawn(take(resumed, 10)) == whole[10:]
    with pytest.raises(InputError, match=r"skipped 10 images in a row.*\.png, expected most"):
        take(build_train_loader(cfg, lambda image: None), 1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{"width": 3, "height": 4}])


def test_what_cannot_be_loaded_is_one_line(images):
    unsized = {"file_name": "unsized.png", "image_id": 3, "width": 2, "annotations": []}
    name = images(_4=unsized)
    kept = {"DATALOADER__FILTER_EMPTY_ANNOTATIONS": False}
    with pytest.raises(InputError, match=r"GROUPING: unsized\.png of .* has no height, expected"):
        build_train_loader(config(name, **kept), identity)
    cfg = config(name, **kept, DATALOADER__ASPECT_RATIO_GROUPING=False)
    assert build_train_loader(cfg, identity)
    bare = {"image_id": 3, "width": 2, "height": 2}
    overrides = {**kept, "DATALOADER__SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}
    with pytest.raises(InputError, match=r"Sampler: image 4 of .* has no annotations, expected"):
        build_train_loader(config(images(_4=bare), **overrides), identity)
    overrides = {
        "DATALOADER__SAMPLER_TRAIN": "RandomSubsetTrainingSampler",
        "DATALOADER__RANDOM_SUBSET_RATIO": 0.01,
    }
    with pytest.raises(InputError, match=r"RATIO: 0.01 of 30 images is none, expected more"):
        build_train_loader(config(images(), **overrides), identity)
    DatasetCatalog.register("test_loader_stream", Stream)
    try:
        with pytest.raises(InputError, match="test_loader_stream can only be read in its own"):
            build_train_loader(config("test_loader_stream"), identity)
    finally:
        DatasetCatalog.remove("test_loader_stream")


@pytest.mark.parametrize(
    "state",
    [
        *(None, [], "seed", {"seed": -1, "samples": 0}, {"seed": 0, "samples": -2}),
        *({"seed": 1.5, "samples": 0}, {"seed": True, "samples": 0}, {"seed": 0, "samples": "4"}),
    ],
)
def test_what_is_no_state_is_refused(images, state):
    loader = build_train_loader(config(images()), identity)
    with pytest.raises(ValueError, match=r"samples|state of a loader"):
        loader.load_state_dict(state)
    with pytest.raises(KeyError):
        loader.load_state_dict({"seed": 0})
    assert loader.state_dict() == {"seed": 3, "samples": 0}
