"""The former place of ``train``, ``test`` and ``score``."""

raise ImportError(
    "detlite.engine.run is gone: use detlite.train and detlite.test, or detlite.engine.test.score; "
    "build_trained and agree_on_classes are in detlite.agreement"
)
