"""Moved: see :mod:`detlite.distributed`."""

raise ImportError("detlite.engine.distributed is now detlite.distributed")
