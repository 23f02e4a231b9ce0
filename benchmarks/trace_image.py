"""Count the files and lines that one image runs through, from disk to loss: python benchmarks/trace_image.py [--list].

Trains one step of the default detector, made narrow, on a generated COCO data set of one image with one object. Tracing
starts when the loader is asked for the batch, and stops after the optimizer's step. So building the detector and the
data set is not traced.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLASSES": ["square"],
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "DATASETS.NUM_WORKERS": 0,
    "SOLVER.BATCH_SIZE": 1,
    "SOLVER.MAX_ITER": 1,
}
SIZE = (320, 240)  # width and height of the image
BOX = (80, 60, 160, 120)  # x, y, width and height of the object


class PackageTracer:
    """Records which lines of a package run. The files are in the order in which they first ran.

    Args:
        package: the folder of the package.
    """

    def __init__(self, package):
        self.package = Path(package).resolve()
        self.lines = {}  # {file relative to the package: set of line numbers}
        self._names = {}  # cache of _name_of: {file: file relative to the package, or None}
        self._previous = None

    def start(self):
        """Start recording, in new calls and in the functions that are already running."""
        self._previous = sys.gettrace()
        sys.settrace(self._trace)

        # settrace has no effect on functions that are already running, so their frames get the trace function.
        frame = sys._getframe(1)
        while frame:
            if self._name_of(frame):
                frame.f_trace = self._trace
            frame = frame.f_back

    def stop(self):
        """Stop recording, and put back the trace function that was there before."""
        sys.settrace(self._previous)

    def _trace(self, frame, event, argument):
        name = self._name_of(frame)
        if name is None:
            return None  # do not trace the lines of this frame
        if event == "line":
            self.lines.setdefault(name, set()).add(frame.f_lineno)
        return self._trace

    def _name_of(self, frame):
        """Return the frame's file relative to the package, or None if the file is not in it."""
        file = frame.f_code.co_filename
        if file not in self._names:
            path = Path(file).resolve()
            is_inside = path.is_relative_to(self.package)
            self._names[file] = path.relative_to(self.package).as_posix() if is_inside else None
        return self._names[file]


class TracedBatches:
    """Batches of a loader; the tracer starts when the first one is asked for.

    Args:
        loader: a training loader.
        tracer: a PackageTracer.
    """

    def __init__(self, loader, tracer):
        self.loader = loader
        self.tracer = tracer

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __iter__(self):
        batches = iter(self.loader)
        self.tracer.start()
        yield from batches


class StopTracing:
    """Hook of the trainer that stops a tracer after the step.

    Args:
        tracer: a PackageTracer.
    """

    def __init__(self, tracer):
        self.tracer = tracer

    def after_step(self, *arguments):
        """Stop the tracer."""
        self.tracer.stop()


def write_data(folder):
    """Write a COCO data set of one image with one object, and return its config node."""
    # A light square on a dark background.
    x, y, width, height = BOX
    image = Image.new("RGB", SIZE, (40, 60, 80))
    image.paste((220, 200, 60), (x, y, x + width, y + height))
    image.save(folder / "square.png")

    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": width * height, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "square.png", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "square"}],
    }
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(content), encoding="utf-8")
    return {"NAME": "CocoDataset", "ANNOTATIONS": str(annotations), "IMAGES": str(folder)}


def build_trainer(folder, tracer):
    """Build a trainer whose batches start the tracer, and whose hook stops it.

    Args:
        folder: an empty folder for the data set.
        tracer: a PackageTracer.
    """
    # Imported after main() has put --checkout on the path.
    import torch

    from detlite.config import load_config
    from detlite.data import build_dataset, build_transforms, training_loader
    from detlite.engine.trainer import Trainer
    from detlite.modeling import build_model
    from detlite.solver import build_lr_scheduler, build_optimizer

    settings = {**NARROW, "DATASETS.TRAIN": [write_data(folder)]}
    opts = []
    for key, value in settings.items():
        opts += [key, value]
    cfg = load_config(opts=opts)
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    loader = training_loader(
        build_dataset(cfg.DATASETS.TRAIN[0]),
        build_transforms(cfg.TRANSFORMS.TRAIN),
        batch_size=cfg.SOLVER.BATCH_SIZE,
        seed=cfg.SEED,
        num_workers=cfg.DATASETS.NUM_WORKERS,
        group_by_aspect_ratio=cfg.DATASETS.GROUP_BY_ASPECT_RATIO,
    )
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, cfg.SOLVER.MAX_ITER)
    batches = TracedBatches(loader, tracer)
    trainer = Trainer(model, optimizer, schedule, batches, max_iter=cfg.SOLVER.MAX_ITER, seed=cfg.SEED)
    trainer.hooks = [StopTracing(tracer)]
    return trainer


def trace():
    """Trace one training step.

    Returns:
        {file relative to the package: number of its lines that ran}, in the order in which the files first ran.
    """
    import detlite

    tracer = PackageTracer(Path(detlite.__file__).parent)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(Path(folder), tracer)
        try:
            trainer.train()
        finally:
            tracer.stop()
    return {name: len(lines) for name, lines in tracer.lines.items()}


def main():
    """Print the number of files and lines that ran. With --list, print the files, too."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the files, in the order in which they first ran")
    parser.add_argument("--checkout", type=Path, help="folder that holds the package; default: the installed package")
    options = parser.parse_args()
    if options.checkout:
        sys.path.insert(0, str(options.checkout.resolve()))

    files = trace()
    print(f"one image, disk to loss: {len(files)} files, {sum(files.values()):,} lines run")
    if options.list:
        for number, (name, lines) in enumerate(files.items(), start=1):
            print(f"{number:3}  {lines:4}  {name}")


if __name__ == "__main__":
    main()
