"""Measure how fast images are read: python benchmarks/loader_speed.py --help.

Writes JPEG files of 640 x 480 with eight boxes each, reads them as a training with the default transforms does, and
prints a table: images per second by workers and batch, the time to copy an image to the device, and the time of next()
for a batch that the workers have ready. The latter is what a training step waits for if the workers are fast enough.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from detlite.config import load_config
from detlite.data import CocoDataset, build_transforms, training_loader
from detlite.inspection.speed import now
from detlite.modeling import choose_device

HEIGHT, WIDTH, BOXES = 480, 640, 8
READY_BATCHES = 8  # whose next() is timed
PAUSE = 0.25  # seconds in which the workers get ahead


def write_data(folder, count):
    """Write a data set of ``count`` images to a folder: x.json and the files, of waves with noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    images, annotations = [], []
    for number in range(count):
        channels = []
        for slope_x, slope_y in generator.uniform(0.005, 0.1, (3, 2)):
            channels.append(127 + 100 * np.sin(x * slope_x + y * slope_y))
        pixels = np.stack(channels, axis=2) + generator.normal(0, 12, (HEIGHT, WIDTH, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        for index in range(BOXES):
            box = {"bbox": [10 + 50 * index, 20, 80, 90], "area": 7200, "iscrowd": 0}
            annotations.append({"id": BOXES * number + index, "image_id": number, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / "x.json").write_text(json.dumps(content))


def measure(dataset, workers, batch_size, device, seconds):
    """Return images per second, milliseconds per image to copy, and milliseconds of next() for a ready batch."""
    transforms = build_transforms(load_config().TRANSFORMS.TRAIN)
    loader = training_loader(
        dataset, transforms, batch_size=batch_size, seed=0, num_workers=workers, group_by_aspect_ratio=True
    )
    batches = iter(loader)
    for _ in range(max(1, 2 * workers)):  # until the workers run evenly
        next(batches)

    begin, images, copying = now(device), 0, 0.0
    while now(device) - begin < seconds:
        batch, _ = next(batches)
        start = now(device)
        for image in batch:
            image.to(device, non_blocking=True)
        copying += now(device) - start
        images += len(batch)
    rate = images / (now(device) - begin)

    waits = []
    for _ in range(READY_BATCHES):
        time.sleep(PAUSE if workers else 0)
        start = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - start)
    batches.close()
    return rate, 1000 * copying / images, 1000 * statistics.median(waits)


def main():
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8], help="default: 2 4 8")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 16], help="images per batch; default: 2 16")
    parser.add_argument("--images", type=int, default=256, help="number of files; default: 256")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement; default: 3")
    parser.add_argument("--device", default="auto", help="where images are copied to; default: auto")
    options = parser.parse_args()
    device = choose_device(options.device)

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, options.images)
        dataset = CocoDataset(annotations=str(folder / "x.json"), images=str(folder))
        for workers in options.workers:
            for batch_size in options.batches:
                rate, copying, wait = measure(dataset, workers, batch_size, device, options.seconds)
                rows.append([workers, batch_size, f"{rate:.0f}", f"{copying:.2f}", f"{wait:.2f}"])
    headers = ["workers", "batch", "images/s", f"ms per image to {torch.device(device)}", "ms of next(), batch ready"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
