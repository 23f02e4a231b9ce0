"""Memory of a COCO-sized annotation file with workers: python tools/measure_memory.py [--start-method spawn].

Writes a JSON file of 118,000 images and 860,000 boxes (as COCO's train2017 has) that are all one small image, loads it,
and prints the proportional set size of each process (what it has to itself, and its part of what is shared; Linux only)
before and after an epoch.
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

IMAGES, BOXES = 118_000, 860_000


def write_data(folder):
    Image.new("RGB", (16, 16)).save(folder / "000000000000.jpg")
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 12, (BOXES, 2)).round(2).tolist()
    owners, categories = (generator.integers(1, high + 1, BOXES).tolist() for high in (IMAGES, 80))
    rows = zip(corners, owners, categories, strict=True)
    annotations = [
        {
            "id": i, "image_id": o, "category_id": c, "bbox": [*xy, 3.5, 2.5], "area": 8.75, "iscrowd": 0,
            "segmentation": [[*xy] * 12],
        }
        for i, (xy, o, c) in enumerate(rows, start=1)
    ]  # fmt: skip
    images = [{"id": i, "file_name": "000000000000.jpg", "height": 16, "width": 16} for i in range(1, IMAGES + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "x.json").write_text(json.dumps(content))


def megabytes(process, key="Pss:"):
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(key)) / 1024


def report(moment, workers):
    sizes = [megabytes(process) for process in (os.getpid(), *workers)]
    own = [sum(megabytes(process, key) for key in ("Private_Clean:", "Private_Dirty:")) for process in workers]
    print(
        f"{moment}: main {sizes[0]:.0f} MB, workers {' '.join(f'{size:.0f}' for size in sizes[1:]) or '-'} MB (private "
        f"{' '.join(f'{size:.0f}' for size in own) or '-'}), together {sum(sizes):.0f} MB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--start-method", choices=["fork", "spawn"], default="fork")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if os.fork() == 0:  # what it takes to write the file is not to be measured
            write_data(folder)
            os._exit(0)
        os.wait()
        report("before loading", [])
        begin = time.perf_counter()
        dataset = CocoDataset(annotations=str(folder / "x.json"), images=str(folder))
        report(f"loaded in {time.perf_counter() - begin:.1f} s", [])
        loader = training_loader(
            dataset,
            build_transforms([]),
            batch_size=16,
            seed=0,
            num_workers=options.workers,
            group_by_aspect_ratio=False,
        )
        loader.multiprocessing_context = options.start_method if options.workers else None
        batches = iter(loader)
        next(batches)
        workers = [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        workers = [p for p in workers if "resource_tracker" not in Path(f"/proc/{p}/cmdline").read_text()]
        report("first batch", workers)
        for _ in range(IMAGES // 16 - 1):
            next(batches)
        report("after an epoch", workers)


if __name__ == "__main__":
    main()
