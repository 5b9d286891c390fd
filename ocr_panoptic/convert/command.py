"""A conversion from file to file."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

from ocr_panoptic.errors import InputError

from .conversion import Conversion
from .files import write_checkpoint
from .formats import OWN_FORMATS, Options, checkpoint_of, convert_checkpoint
from .verify import differing_keys, load_into_model

__all__ = ["convert_file"]


def convert_file(
    source: str,
    target: str,
    path: Path,
    output: Path,
    options: Options,
    *,
    cfg: CfgNode | None = None,
    trust: bool = False,
) -> Conversion:
    """Convert a checkpoint and write the result, unless it does not fit.

    Args:
        source: its format, of :data:`~.formats.FORMATS`.
        target: the format wanted.
        path: the file.
        output: where the result goes.
        options: how.
        cfg: a config whose model the result is loaded into, before there is a result; what the
            model has and the result has not is added to the conversion's ``missing``, and its
            ``config`` keeps the keys that differ.
        trust: as for :func:`~ocr_panoptic.engine.safe_load.load_checkpoint_file`.

    Raises:
        InputError: for formats that do not go together, and files that cannot be read or written,
            or do not fit.
    """
    if cfg is not None and target not in OWN_FORMATS:
        raise InputError(
            f"--config-file with --to {target}: expected --to {' or '.join(OWN_FORMATS)}"
        )
    conversion = convert_checkpoint(source, target, path, options=options, trust=trust)

    def check(written: Path) -> None:
        if cfg is None:
            return
        names = load_into_model(cfg, written, output)
        conversion.missing = dict.fromkeys(names, "of the config's model, where it starts anew")
        conversion.config = differing_keys(cfg, conversion.config)

    write_checkpoint(output, checkpoint_of(conversion, target), check)
    return conversion
