"""Known warnings are silenced; others of the same sources are not."""

import logging
import warnings

import pytest

from ocr_panoptic.known_warnings import silence_known_warnings

LOGGED = {
    "torch.fx._symbolic_trace": "is_fx_tracing will return true for both fx.symbolic_trace and ...",
    "torch.utils.cpp_extension": "No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'",
}


@pytest.fixture
def silenced():
    loggers = [logging.getLogger(name) for name in LOGGED]
    before = [list(logger.filters) for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence_known_warnings()
        # Again, as several runs in one process do.
        silence_known_warnings()
        yield loggers
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters = filters


def test_only_the_known_are_silenced(silenced, caplog):
    warnings.warn("torch.meshgrid: in an upcoming release, indexing is required", stacklevel=1)
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)
    for logger in silenced:
        logger.warning(LOGGED[logger.name])
        logger.warning("another of %s", logger.name)
        assert len(logger.filters) == 1
    assert caplog.messages == [f"another of {name}" for name in LOGGED]
