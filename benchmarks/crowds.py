"""Write generated crowds: large images with hundreds of small shapes each, in COCO's format.

    python benchmarks/crowds.py crowds             # 24 images of 2,000 px with 500 shapes of 12 to 40 px
    detlite init crowds
    detlite check --config-file crowds.yaml
    detlite train --config-file crowds.yaml

The shapes are discs, squares and triangles in random colors on noise. They touch, but at most a little of one covers
another: centers are at least 0.9 of the two mean sides apart.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ["disc", "square", "triangle"]


def draw(image_size, num_objects, sides, rng):
    """Return an image, and a list of (class index, x, y, side)."""
    noise = rng.integers(90, 150, (image_size // 8, image_size // 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((image_size, image_size), Image.Resampling.BICUBIC)
    pencil, objects = ImageDraw.Draw(image), []
    while len(objects) < num_objects:
        side = int(rng.integers(sides[0], sides[1] + 1))
        x, y = rng.integers(0, image_size - side, 2).tolist()
        centers = np.array([(left + s / 2, top + s / 2, s) for _, left, top, s in objects]).reshape(-1, 3)
        distances = np.hypot(centers[:, 0] - x - side / 2, centers[:, 1] - y - side / 2)
        if (distances < 0.9 * (centers[:, 2] + side) / 2).any():
            continue
        kind, color = int(rng.integers(3)), tuple(rng.choice([rng.integers(0, 70), rng.integers(180, 256)], 3).tolist())
        corners = (x, y, x + side - 1, y + side - 1)
        if kind == 0:
            pencil.ellipse(corners, fill=color)
        elif kind == 1:
            pencil.rectangle(corners, fill=color)
        else:
            pencil.polygon([(x, y + side - 1), (x + side - 1, y + side - 1), (x + side / 2, y)], fill=color)
        objects.append((kind, x, y, side))
    return image, objects


def write(folder, counts, image_size, num_objects, sides):
    """Write a JSON file and the images of each split; ``counts`` are {split: number of images}."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        truth = {"images": [], "annotations": []}
        truth["categories"] = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
        for image_id in range(1, count + 1):
            image, objects = draw(image_size, num_objects, sides, rng)
            name = f"{split}{image_id}.png"
            image.save(folder / split / name)
            truth["images"].append({"id": image_id, "file_name": name, "width": image_size, "height": image_size})
            for kind, x, y, side in objects:
                row = {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": kind + 1, "iscrowd": 0}
                truth["annotations"].append({**row, "bbox": [x, y, side, side], "area": side * side})
        (folder / f"{split}.json").write_text(json.dumps(truth))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs=2, default=[20, 4], help="to train on, and to test on")
    parser.add_argument("--size", type=int, default=2000, help="side of the images")
    parser.add_argument("--objects", type=int, default=500, help="per image")
    parser.add_argument("--sides", type=int, nargs=2, default=[12, 40], help="least and greatest side of a shape")
    options = parser.parse_args()
    splits = dict(zip(("train", "val"), options.images, strict=True))
    write(options.folder, splits, options.size, options.objects, options.sides)
