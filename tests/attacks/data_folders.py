"""Data sets in COCO's, Pascal VOC's and YOLO's format with mutated annotations, files and names."""

import json
import os
import shutil

from corruptions import corruptions
from inputs import copy_data
from mutations import NAMES, mutate, mutate_bytes, put_odd_file
from verdict import Case

COMMANDS = [
    ["check", "--data-only"],
    ["train"],
    ["train"],
    ["anchors"],
    ["visualize", "--what", "inputs", "--output", "output"],
]


def make(good, draw):
    """Return a case with a spoiled data set."""
    form = draw.choice(["coco", "voc", "yolo"])
    folder, words = copy_data(good, form, draw)
    kind = draw.choice(["single", "single", "values", "bytes", "odd file", "name", "extra files"])
    if kind == "values" and form != "coco":
        kind = "bytes"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw.choice(paths)
    if kind == "single":
        choices = [corruption for corruption in corruptions() if corruption[0] == form]
        _, kind, corrupt = draw.choice(choices)
        corrupt(folder, draw)
    elif kind == "values":
        path = folder / "all.json"
        path.write_text(json.dumps(mutate(json.loads(path.read_text()), draw)))
    elif kind == "bytes":
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    elif kind == "odd file":
        put_odd_file(path, draw)
    elif kind == "name":
        path.rename(_sibling(path, draw))
    else:
        for _ in range(3):
            shutil.copy(draw.choice(paths), _sibling(draw.choice(paths), draw))
        folder.joinpath(draw.choice(["loop", "images/loop"])).parent.mkdir(exist_ok=True)
        folder.joinpath("loop").symlink_to("..")
    name = f"data: {form}, {kind}"
    if draw.random() < 0.25:
        more = draw.choice([[], ["--format", form], ["--size", "64"]])
        return Case(name, ["init", "data", "--output", "own.yaml", *more], ("own.yaml",))
    return Case(name, [*draw.choice(COMMANDS), *words])


def _sibling(path, draw):
    """Return a new name in a file's folder."""
    name = draw.choice(NAMES).replace("/", "_").replace("\0", "") or "x"
    name = draw.choice([name, f"{name}{path.suffix}", f"{path.name}{name}"])
    data = os.fsencode(name)[:200]
    new = path.parent / os.fsdecode(data)
    return new if not new.exists() else path.with_name(f"{path.name}.copy")
