"""Known warnings are silenced; others of the same sources are not."""

import logging
import warnings

import pytest

from ocr_panoptic.known_warnings import silence_known_warnings


@pytest.fixture
def silenced():
    logger = logging.getLogger("torch.fx._symbolic_trace")
    before = list(logger.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence_known_warnings()
        # Again, as several runs in one process do.
        silence_known_warnings()
        yield logger
    logger.filters = before


def test_only_the_known_are_silenced(silenced, caplog):
    warnings.warn("torch.meshgrid: in an upcoming release, indexing is required", stacklevel=1)
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)
    silenced.warning("is_fx_tracing will return true for both fx.symbolic_trace and torch.export.")
    silenced.warning("another of %s", "fx")
    assert [record.getMessage() for record in caplog.records] == ["another of fx"]
    assert len(silenced.filters) == 1
