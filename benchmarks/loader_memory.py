"""Measure the memory of a COCO-sized data set with loader workers: python benchmarks/loader_memory.py --help.

Writes a JSON file of 118,000 images and 860,000 boxes, as COCO's train2017 has, whose images are all one small file.
Loads it, and prints the proportional set size of each process before and after an epoch: its private memory, and its
part of the shared memory. Linux only.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from detlite.data import CocoDataset, build_transforms, training_loader

IMAGES, BOXES, CLASSES = 118_000, 860_000, 80
BATCH = 16


def write_data(folder):
    """Write the data set to a folder: x.json and one image."""
    name = "000000000000.jpg"
    Image.new("RGB", (16, 16)).save(folder / name)
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 12, (BOXES, 2)).round(2).tolist()
    owners = generator.integers(1, IMAGES + 1, BOXES).tolist()
    categories = generator.integers(1, CLASSES + 1, BOXES).tolist()

    annotations = []
    for number, (corner, owner, category) in enumerate(zip(corners, owners, categories, strict=True), start=1):
        row = {"id": number, "image_id": owner, "category_id": category, "bbox": [*corner, 3.5, 2.5], "area": 8.75}
        annotations.append({**row, "iscrowd": 0, "segmentation": [corner * 12]})
    content = {
        "images": [{"id": id_, "file_name": name, "height": 16, "width": 16} for id_ in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in range(1, CLASSES + 1)],
    }
    (folder / "x.json").write_text(json.dumps(content))


def megabytes(process, *keys):
    """Return the sum of entries of a process's smaps_rollup."""
    total = 0
    for row in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if row.startswith(keys):
            total += int(row.split()[1])
    return total / 1024


def show(moment, workers=()):
    """Print the memory of this process and of the workers."""
    main = megabytes(os.getpid(), "Pss:")
    shares = [megabytes(process, "Pss:") for process in workers]
    private = [megabytes(process, "Private_Clean:", "Private_Dirty:") for process in workers]
    line = f"{moment}: main {main:.0f} MB"
    if workers:
        line += f", workers {' '.join(f'{size:.0f}' for size in shares)} MB"
        line += f" (private {' '.join(f'{size:.0f}' for size in private)})"
    print(f"{line}, together {main + sum(shares):.0f} MB", flush=True)


def find_workers():
    """Return the ids of this process's children, except multiprocessing's resource tracker."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()]


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--start-method", choices=["fork", "spawn"], default="fork")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A separate process writes the file, so that its memory is not measured.
        if os.fork() == 0:
            write_data(folder)
            os._exit(0)
        os.wait()

        show("before loading")
        begin = time.perf_counter()
        dataset = CocoDataset(annotations=str(folder / "x.json"), images=str(folder))
        show(f"loaded in {time.perf_counter() - begin:.1f} s")
        loader = training_loader(
            dataset,
            build_transforms([]),
            batch_size=BATCH,
            seed=0,
            num_workers=options.workers,
            group_by_aspect_ratio=False,
        )
        loader.multiprocessing_context = options.start_method if options.workers else None
        batches = iter(loader)
        next(batches)
        workers = find_workers()
        show("first batch", workers)
        for _ in range(IMAGES // BATCH - 1):
            next(batches)
        show("after an epoch", workers)


if __name__ == "__main__":
    main()
