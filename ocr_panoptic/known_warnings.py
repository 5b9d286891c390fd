"""What newer versions of torch say about Detectron2's code, which a user can do nothing about."""

from __future__ import annotations

import logging
import warnings

__all__ = ["silence_known_warnings"]


def silence_known_warnings() -> None:
    """Silence them in this process; everything else that torch says is still heard."""
    # Of the anchors.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    # Of the poolers, and of Detectron2's report of the environment where there is a compiler for
    # CUDA and no GPU; once in every process.
    for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    known = ("is_fx_tracing will return true", "No CUDA runtime is found, using CUDA_HOME")
    return not record.getMessage().startswith(known)
