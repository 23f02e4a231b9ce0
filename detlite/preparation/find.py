"""What a folder of somebody's data holds: COCO's, Pascal VOC's or YOLO's files, as nodes of DATASETS."""

import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detlite.config.yaml import format_value
from detlite.errors import UserError, nearest_path
from detlite.preparation.formats import find_coco, find_voc, find_yolo

FINDERS = {"coco": find_coco, "voc": find_voc, "yolo": find_yolo}
DEPTH = 4  # folders below folders that are looked into
EXPECTED = """expected one of
  coco: a .json file with images, annotations and categories, and the folder of its images
  voc:  an .xml file for each image, in the same folder or in one of their own, with or without ImageSets/Main
  yolo: data.yaml, or classes.txt or obj.names; and a .txt file for each image, beside it or in labels/ for images/"""


@dataclass
class FoundData:
    """What was found.

    Args:
        format: coco, voc or yolo.
        train: nodes of DATASETS.TRAIN.
        test: the node of DATASETS.TEST.
        remarks: what a reader of these nodes should know.
    """

    format: str
    train: list
    test: dict
    remarks: list


def find_data(root, format=None):
    """The data sets in a folder.

    Args:
        root: the folder.
        format: coco, voc or yolo, for a folder that holds several; None takes the one there is.

    Returns:
        :class:`FoundData`.

    Raises:
        UserError: there is no such folder, or its files are of none of these formats, or of several.
    """
    root = Path(os.path.abspath(os.path.expanduser(root)))
    if not root.is_dir():
        what = "a file, where its folder is expected" if root.exists() else "no such folder"
        raise UserError(f"{root}: {what}{nearest_path(root)}")
    tree = _walk(root)
    found = {name: find(root, tree) for name, find in FINDERS.items() if format in (None, name)}
    found = {name: data for name, data in found.items() if data}
    if len(found) > 1:
        raise UserError(f"{root}: holds data in several formats: {', '.join(found)}; --format says which to take")
    if not found:
        suffixes = Counter(
            Path(name).suffix.lower() or "files without suffix" for names in tree.values() for name in names
        )
        held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6)) or "no files"
        raise UserError(
            f"{root}: no data in {f'the format {format}' if format else 'a known format'}: it holds {held}; {EXPECTED}"
        )
    ((format, nodes),) = found.items()
    return FoundData(format, *_divide(root, nodes))


def _walk(root):
    """{folder, relative to root: its files}, hidden ones left out."""
    tree = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if name[0] != ".") if len(relative.parts) < DEPTH else []
        tree[str(relative)] = sorted(name for name in files if name[0] != ".")
    return tree


def _divide(root, found):
    """Nodes to train on, the node to test on, and remarks, from {train, val, test or None: nodes}."""
    train = next(found[split] for split in ("train", None, "val", "test") if split in found)
    others = [found[split] for split in ("val", "test") if split in found and found[split] is not train]
    test, remarks = others[0] if others else train, []
    if len(test) > 1:
        sources = "; ".join(str(node.get("ANNOTATIONS")) for node in test)
        remedy = "tell them apart by the words train and val in their names, or leave out all but one"
        raise UserError(f"{root}: {len(test)} data sets to test on, where there can be one: {sources}; {remedy}")
    if "ONE_BASED" in test[0]:
        remarks.append("some boxes begin at 0, so the files count pixels from 0, and not, as VOC's, from 1 (ONE_BASED)")
    if None in found and train is not found[None]:
        remarks.append(f"left out, as no name says train, val or test: {found[None]}")
    if len(others) > 1:
        differing = {key: value for key, value in others[1][0].items() if value != test[0].get(key)}
        keys = " ".join(f"DATASETS.TEST.{key} {shlex.quote(format_value(value))}" for key, value in differing.items())
        remarks.append(
            "DATASETS.TEST is the validation split; there is a test split, too, to keep for the end: "
            f"`detlite test --weights W {keys}`"
        )
    if others:
        return train, test[0], remarks
    remarks.append(
        "the images are not divided yet: a fifth, drawn by their names, is to test on (SPLIT); if some show one scene, "
        "as the frames of a video do, divide them yourself, or test images look like those trained on"
    )
    return [{**test[0], "SPLIT": "train"}], {**test[0], "SPLIT": "test"}, remarks
