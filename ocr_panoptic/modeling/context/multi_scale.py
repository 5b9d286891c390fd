"""Schemes that look at several scales, alone or together with object context."""

from __future__ import annotations

__all__ = []
