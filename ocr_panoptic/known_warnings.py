"""What newer versions of torch say about Detectron2's code, which a user can do nothing about."""

from __future__ import annotations

import logging
import warnings

__all__ = ["silence_known_warnings"]


def silence_known_warnings() -> None:
    """Silence them in this process; everything else that torch says is still heard."""
    # Of the anchors.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    # Of the poolers; once in every process.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("is_fx_tracing will return true")
