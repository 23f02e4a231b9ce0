"""Moved: see :mod:`detlite.engine.train`, :mod:`detlite.engine.test` and :mod:`detlite.agreement`."""

raise ImportError("detlite.engine.run is now detlite.train, detlite.test and detlite.agreement")
