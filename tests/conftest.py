"""What many tests share: a detector small enough to train in a second, through the same code as a large one.

And its checkpoint, which takes no training; and a ground truth without files.
"""

import contextlib
import resource
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny import TINY

from detlite.checkpoint import save_checkpoint
from detlite.config import load_config
from detlite.modeling import build_model
from detlite.registry import registries


@pytest.fixture
def tiny_opts(tmp_path):
    """A function: {key: value} -> opts of a tiny detector on 64 px shapes, writing to the test's own folder."""

    def opts(**changes):
        values = {**TINY, "OUTPUT_DIR": str(tmp_path / "output")}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return [word for pair in values.items() for word in pair]

    return opts


@pytest.fixture
def booby_trapped(tmp_path, monkeypatch):
    """The current folder, with modules in it that raise an error when something imports them by their usual names."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("random", "torch", "numpy", "tempfile", "detlite", "multiprocessing"):
        (folder / f"{name}.py").write_text("raise SystemError('a module of the current folder was run')\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def full_disk():
    """A function: (bytes) -> context in which longer files cannot be written, as on a full disk."""

    @contextlib.contextmanager
    def limit(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limit


@pytest.fixture
def checkpoint(tiny_opts, tmp_path):
    """A function: (changes of the config) -> the path of an untrained tiny detector's checkpoint.

    A section that is given as a whole takes the place of the tiny detector's keys in it.
    """

    def save(**changes):
        torch.manual_seed(0)
        classes = ["circle", "square", "triangle"]
        opts = tiny_opts(MODEL__CLASSES=classes, MODEL__RPN__MIN_SIZE=1, **changes)
        whole = tuple(f"{key.replace('__', '.')}." for key in changes)
        if changes.get("MODEL__NAME") == "ProposalNetwork":
            whole = (*whole, "MODEL.ROI_HEADS.")
        pairs = [pair for pair in zip(opts[::2], opts[1::2], strict=True) if not pair[0].startswith(whole or "?")]
        cfg = load_config(opts=[word for pair in pairs for word in pair])
        content = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "classes": classes}
        save_checkpoint(content, tmp_path / "tiny.pth")
        return tmp_path / "tiny.pth"

    return save


@pytest.fixture
def make_truth():
    """A function: objects (image id, label, [x, y, width, height], ignored) -> a data set as evaluators see it."""

    def make(objects, classes=("cat", "dog", "cow"), category_ids=None, images=3, sizes=None):
        category_ids = list(category_ids or range(1, len(classes) + 1))
        document = {
            "images": [
                {"id": n, "width": w, "height": h, "file_name": f"{n}.jpg"}
                for n, (w, h) in enumerate(sizes or [(640, 480)] * images)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)],
            "annotations": [
                {
                    "id": n,
                    "image_id": image,
                    "category_id": category_ids[label - 1],
                    "bbox": bbox,
                    "iscrowd": int(crowd),
                }
                for n, (image, label, bbox, crowd) in enumerate(objects)
            ],
        }
        return SimpleNamespace(classes=list(classes), category_ids=category_ids, coco=lambda: document)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape what a test prints of a path that is not UTF-8: parallel processes could not send it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors are faster on one thread, and the machine may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """Ctrl-C interrupts tests and what they start, even where a shell that runs them in the background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def parts_of_its_own():
    """Parts that a test registers, and the modules that hold them, are gone after it: no other test meets them."""
    load_config()  # imports the built-in parts
    modules = set(sys.modules)
    before = {registry: dict(registry._obj_map) for registry in registries().values()}
    yield
    for registry, parts in before.items():
        for name in set(registry) - set(parts):
            if registry.get(name).__module__ not in modules:
                sys.modules.pop(registry.get(name).__module__, None)
        registry._obj_map = parts
