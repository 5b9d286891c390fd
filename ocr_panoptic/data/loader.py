"""A train loader that goes on where it was: each sample is a function of the seed and its number.

Data sets, filters, samplers and the order of the images are Detectron2's own. What differs: images
are grouped by aspect ratio before they are read, by the sizes that the data set says, so that any
number of batches is skipped without reading one; and random numbers are seeded for each image, so
that its augmentation depends neither on the process that reads it nor on the images before it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ocr_panoptic.errors import InputError
from ocr_panoptic.random_state import draw_seed, preserved_random_state, seed_by

__all__ = ["ResumableLoader", "build_train_loader"]

_TRIES = 10


def build_train_loader(cfg: CfgNode, mapper: Callable[[dict], dict | None]) -> ResumableLoader:
    """Return the train loader of a config: as Detectron2's builds it, but resumable.

    Args:
        cfg: a negative SEED draws one; all processes of the run have to call this together then.
        mapper: from a dict of the data set to what the model reads.

    Raises:
        InputError: the data set has no length, or no sizes to group by, or no instances to balance.
    """
    # Any sampler that is given keeps Detectron2 from making one.
    parts = build_detection_train_loader.from_config(cfg, mapper=mapper, sampler=())
    dataset, names = parts["dataset"], ", ".join(cfg.DATASETS.TRAIN)
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"DATASETS.TRAIN: {names} can only be read in its own order, expected a list or a data "
            "set whose n-th image can be asked for"
        )
    _require_keys(cfg, dataset, names)
    _require_subset(cfg, len(dataset))
    wide = [False] * len(dataset)
    if parts["aspect_ratio_grouping"]:
        images = (dataset[index] for index in range(len(dataset)))
        wide = [image["width"] > image["height"] for image in images]
    if isinstance(dataset, list):
        # In one block of memory, which workers share.
        dataset = DatasetFromList(dataset, copy=False)

    def indices(seed: int) -> Iterator[int]:
        seeded = cfg.clone()
        seeded.defrost()
        seeded.SEED = seed
        with preserved_random_state():
            # Some samplers draw their seeds from numpy, some take SEED.
            seed_by(seed)
            made = build_detection_train_loader.from_config(seeded, mapper=mapper, dataset=dataset)
        return iter(made["sampler"])

    return ResumableLoader(
        dataset,
        mapper,
        indices,
        wide,
        images_per_batch=parts["total_batch_size"],
        num_workers=parts["num_workers"],
        seed=cfg.SEED if cfg.SEED >= 0 else draw_seed(),
    )


def _require_keys(cfg: CfgNode, dataset: list | Dataset, names: str) -> None:
    """See that every image has what grouping and sampling look at."""
    needs = []
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        needs.append((("width", "height"), "DATALOADER.ASPECT_RATIO_GROUPING", "False"))
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        key = "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler"
        needs.append((("annotations",), key, "TrainingSampler"))
    for keys, key, instead in needs:
        for index in range(len(dataset)):
            missing = [name for name in keys if name not in dataset[index]]
            if missing:
                file = dataset[index].get("file_name", f"image {index}")
                raise InputError(
                    f"{key}: {file} of {names} has no {' and no '.join(missing)}, expected them, "
                    f"or {instead}"
                )


def _require_subset(cfg: CfgNode, images: int) -> None:
    if cfg.DATALOADER.SAMPLER_TRAIN != "RandomSubsetTrainingSampler":
        return
    ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    if int(images * ratio) < 1:
        raise InputError(
            f"DATALOADER.RANDOM_SUBSET_RATIO: {ratio} of {images} images is none, expected more"
        )


class ResumableLoader:
    """Endless batches of mapped images, in an order and with augmentations that a seed determines.

    Sample n is image i(n) of the data set, mapped with random numbers seeded by the seed and n.
    With several processes, rank r of w takes the samples n with n % w == r, as in Detectron2. The
    images of a batch are all wider than high, or all not, where grouping is asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        mapper: Callable[[dict], dict | None],
        indices: Callable[[int], Iterator[int]],
        wide: list[bool],
        *,
        images_per_batch: int,
        num_workers: int,
        seed: int,
    ) -> None:
        """Prepare to load; workers start when the loader is iterated over.

        Args:
            dataset: dicts of images.
            mapper: as in :func:`build_train_loader`.
            indices: from a seed to the images i(n) of this process's samples, without end.
            wide: group of each image of ``dataset``.
            images_per_batch: of all processes, which divide it evenly.
            num_workers: processes that map images; 0 for this one.
            seed: of the order and of the augmentations.
        """
        self.seed = seed
        self._samples = 0
        self._mapped = _MappedSamples(dataset, mapper)
        self._indices = indices
        self._wide = wide
        self._images_per_batch = images_per_batch
        self._num_workers = num_workers

    @property
    def num_images(self) -> int:
        """Images of the data set."""
        return len(self._mapped)

    def state_dict(self) -> dict[str, int]:
        """Return the seed, and how many samples all processes together have been given."""
        return {"seed": self.seed, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state, when the loader is iterated over the next time.

        With another number of images in a batch it goes on with the batch in which that sample is.

        Raises:
            ValueError: it is no state of a loader.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"a {type(state).__name__} for the state of a loader")
        seed, samples = state["seed"], state["samples"]
        if not all(type(number) is int and number >= 0 for number in (seed, samples)):
            raise ValueError(f"seed {seed}, {samples} samples")
        self.seed = seed
        self._samples = samples - samples % self._images_per_batch

    def __iter__(self) -> Iterator[list[dict]]:
        """Iterate over this process's batches, from where the loader is."""
        share = self._images_per_batch // comm.get_world_size()
        batches = itertools.islice(
            self._batches(share), self._samples // self._images_per_batch, None
        )
        self._mapped.seed = self.seed
        samples = iter(
            DataLoader(
                self._mapped,
                # Images one by one, so that all workers are at work on the next batch.
                batch_size=None,
                sampler=itertools.chain.from_iterable(batches),
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                # For the seeds of workers, which nothing uses: not from the model's generator.
                generator=torch.Generator(),
            )
        )
        here = self._num_workers == 0
        while True:
            with preserved_random_state() if here else contextlib.nullcontext():
                batch = list(itertools.islice(samples, share))
            self._samples += self._images_per_batch
            yield batch

    def _batches(self, share: int) -> Iterator[list[tuple[int, int]]]:
        """Yield (n, i(n)) of this process's samples, ``share`` of one group at a time."""
        groups = ([], [])
        numbers = itertools.count(comm.get_rank(), comm.get_world_size())
        for number, index in zip(numbers, self._indices(self.seed), strict=False):
            group = groups[self._wide[index]]
            group.append((number, index))
            if len(group) == share:
                yield group[:]
                group.clear()


class _MappedSamples(Dataset):
    """From (n, i(n)) to the mapped image, with random numbers of its own."""

    def __init__(self, dataset: Dataset, mapper: Callable[[dict], dict | None]) -> None:
        self.seed = 0
        self._dataset = dataset
        # A mapper may be a lambda, and workers may be spawned.
        self._mapper = PicklableWrapper(mapper)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, sample: tuple[int, int]) -> dict:
        number, index = sample
        for attempt in range(_TRIES):
            seed_by(self.seed, number, attempt)
            if attempt:
                # As Detectron2 does where a mapper says None: another image.
                index = np.random.randint(len(self._dataset))
            mapped = self._mapper(self._dataset[index])
            if mapped is not None:
                return mapped
        raise InputError(
            f"DATASETS.TRAIN: the mapper skipped {_TRIES} images in a row, the last of them "
            f"{self._dataset[index].get('file_name', index)}, expected most images to be of use"
        )


def _as_it_is(sample: dict) -> dict:
    return sample
