"""Recognize the data in a folder: COCO's, Pascal VOC's or YOLO's files, as nodes of DATASETS."""

import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from detlite.config.yaml import format_value
from detlite.errors import UserError, nearest_path, suggest
from detlite.preparation.formats import Tree, find_coco, find_voc, find_yolo

FINDERS = {"coco": find_coco, "voc": find_voc, "yolo": find_yolo}
VISIBLE = re.compile("[^.]")  # a name that is not hidden
DEPTH = 6  # levels of subfolders that are searched
EXPECTED = """expected one of
  coco: a .json file with images, annotations and categories, and the folder of its images
  voc:  one .xml file per image, next to the images or in a separate folder, with or without ImageSets/Main
  yolo: data.yaml, classes.txt or obj.names; and one .txt file per image, next to it or in labels/ for images/"""
UNDIVIDED = (
    "no names divide the images into train and val or test, so a fifth of them, by file name, is the test set (SPLIT). "
    "If several images show one scene, such as frames of a video, make folders train and val, or AP is too high"
)


class FoundData(NamedTuple):
    """The data in a folder, with remarks on it for the user."""

    format: str  # coco, voc or yolo
    train: list  # nodes of DATASETS.TRAIN
    tests: list  # nodes of DATASETS.TEST
    remarks: list


def find_data(root, format=None, names=()):
    """Return the :class:`FoundData` of a folder.

    ``format`` is coco, voc or yolo, for a folder that holds several; None takes the only one. ``names`` are the classes
    to use; empty for all. An unknown name is a UserError. So is a folder that does not exist, or whose files have none
    of these formats or several.
    """
    root = Path(os.path.abspath(os.path.expanduser(root)))
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: a file, expected a folder")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder{nearest_path(root)}")

    # Each format is looked for, unless the user names one, so that a second one is noticed.
    tree = _walk(root)
    found = {}
    for name, find in FINDERS.items():
        if format in (None, name) and (nodes := find(tree)):
            found[name] = nodes
    if not found:
        suffixes = Counter(file.suffix.lower() or "files without suffix" for file in tree.files)
        held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6)) or "no files"
        wanted = f"the format {format}" if format else "a known format"
        raise UserError(f"{root}: no data in {wanted}: it holds {held}; {EXPECTED}")
    if len(found) > 1:
        raise UserError(f"{root}: data in several formats: {', '.join(found)}; choose one with --format")
    ((format, nodes),) = found.items()

    # Drop the objects of all other classes.
    for node in sum(nodes.values(), []) if names else ():
        known = node.get("CLASSES", names)
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"--classes: the data has no class {unknown[0]!r}{suggest(unknown[0], known)}")
        key = "KEEP_CLASSES" if format == "yolo" else "CLASSES"
        node |= {key: list(names), "OTHER_CLASSES": "drop"}
    return FoundData(format, *_divide(nodes))


def _walk(root):
    """Return the :class:`~detlite.preparation.formats.Tree` of a folder, without hidden files."""
    tree = Tree(root, [], [])
    for path, subfolders, names in os.walk(root, followlinks=True):
        folder = Path(path).relative_to(root)
        tree.folders.append(folder)
        tree.files.extend(map(folder.joinpath, sorted(filter(VISIBLE.match, names))))
        # os.walk enters the folders that are left in its list.
        visible = sorted(filter(VISIBLE.match, subfolders))
        subfolders[:] = visible if len(folder.parts) < DEPTH else []
    return tree


def value_of_tests(nodes):
    """Return the value of DATASETS.TEST: the only node, or all, each with a TITLE from its files or folder."""
    if len(nodes) == 1:
        return nodes[0]
    sources = [" ".join(node.get("IMAGE_SETS") or [node["ANNOTATIONS"].removesuffix(".json")]) for node in nodes]
    return [{**node, "TITLE": re.sub(r"[^\w-]+", "_", source)} for node, source in zip(nodes, sources, strict=True)]


def _divide(found):
    """Return nodes to train on, nodes to test on, and remarks, from {train, val, test or None: nodes}."""
    # Data without a split is to train on if there is no train split. The first other split is to test on.
    train_split = next(split for split in ("train", None, "val", "test") if split in found)
    others = [split for split in ("val", "test") if split in found and split != train_split]
    train = found[train_split]
    tests = found[others[0]] if others else train

    remarks = []
    if "ONE_BASED" in train[0]:
        remarks.append("some boxes begin at 0, so the files count pixels from 0, and not from 1 like VOC's (ONE_BASED)")
    if None in found and train_split is not None:
        remarks.append(f"left out, because no name says train, val or test: {found[None]}")
    if len(others) > 1:
        keys = f"DATASETS.TEST {shlex.quote(format_value(value_of_tests(found['test'])))} OUTPUT_DIR output/test"
        command = f"`detlite test --weights W {keys}`"
        remarks.append(f"DATASETS.TEST is the validation split; keep the test split for the end: {command}")
    if others:
        if len(tests) > 1:
            titles = ", ".join(node["TITLE"] for node in value_of_tests(tests))
            remarks.append(f"{len(tests)} test sets: {titles}; the main results are the first one's (DATASETS.TEST)")
        return train, tests, remarks
    divided = [[{**node, "SPLIT": split} for node in train] for split in ("train", "test")]
    return *divided, [*remarks, UNDIVIDED]
