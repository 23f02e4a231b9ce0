"""Find data sets in COCO's, Pascal VOC's and YOLO's formats, and return their config nodes as {split: nodes}.

The split is a word in the name of a file or folder, such as "train".
"""

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from detlite.config.yaml import parse_yaml
from detlite.data.datasets.coco_json import read_json
from detlite.data.datasets.pascal_voc_xml import read_annotation
from detlite.data.datasets.yolo import find_label_file
from detlite.data.image_files import IMAGE_SUFFIXES
from detlite.errors import UserError, shortened
from detlite.files import TEXT_LIMIT, read_text

logger = logging.getLogger("detlite")

MOST_JSON = 50  # maximum number of JSON files to open; LabelMe writes one per image
WORDS = {"train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test"}
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
IMAGE_SETS = ("train", "trainval", "val", "valid", "validation", "test")
MORE_SETS = re.compile(r"(val|test)[_-][a-z].*(?<!train)(?<!val)(?<!test)(?<!dev)")  # val_far; VOC has CLASS_val
CLASS_FILES = ("classes.txt", "predefined_classes.txt", ".names")


class Tree(NamedTuple):
    """The folders and files below ``root``. The root is absolute; the other paths are relative to it."""

    root: Path
    folders: list
    files: list

    def find(self, *suffixes):
        """Return the files with one of these suffixes, given in lower case."""
        return [file for file in self.files if file.suffix.lower() in suffixes]


def split_of(path):
    """Return train, val or test, from the last word in a path that is in WORDS, or None.

    >>> split_of("annotations/instances_val2017.json"), split_of("data/Training/x"), split_of("images/trainer")
    ('val', 'train', None)
    """
    for word in reversed(re.findall("[a-z]+", str(path).lower())):
        if word in WORDS:
            return WORDS[word]
    return None


def _nearest_first(folder, split, folders):
    """Sort folders for a file in ``folder``: the same one, those of its split, those named image, all others."""
    order = {other: (other != folder, split_of(other) != split, "image" not in str(other).lower()) for other in folders}
    return sorted(folders, key=order.get)


def find_coco(tree):
    """Return {split: nodes} for COCO's JSON files with boxes; {} if there are none."""
    # COCO's boxes are in instances_*.json. Of other names, try the largest first: annotations are large.
    files = tree.find(".json")
    files = [file for file in files if file.name.startswith("instances_")] or files
    files.sort(key=lambda file: -(tree.root / file).stat().st_size)

    found = {}
    for file in files[:MOST_JSON]:
        names = _names_of_images(tree.root, file)
        if not names:
            continue
        # Assume that a folder with the first, middle and last image has all of them.
        some = {names[index].replace("\\", "/") for index in (0, len(names) // 2, -1)}  # a file may be from Windows
        split = split_of(file)
        for folder in _nearest_first(file.parent, split, tree.folders):
            if all((tree.root / folder / name).is_file() for name in some):
                break
        else:
            raise UserError(f"{tree.root / file}: no folder has its image {names[0]!r}; add it or set another --format")
        node = {"NAME": "CocoDataset", "ROOT": str(tree.root), "ANNOTATIONS": str(file), "IMAGES": str(folder)}
        found.setdefault(split, []).append(node)
    return found


def _names_of_images(root, file):
    """Return the names of a COCO file's images, or [] for a file without boxes or in another format."""
    try:
        content = read_json(root / file)
    except UserError as error:
        # A broken file of a split, such as half a download, is an error: the other files are not all of the data.
        if isinstance(error.__cause__, ValueError):
            if split_of(file):
                raise
            logger.warning("left out: %s", error)
        return []
    names = [row.get("file_name") for row in content["images"]]
    may_have_boxes = not content["annotations"] or any("bbox" in row for row in content["annotations"][:100])
    return names if may_have_boxes and all(isinstance(name, str) for name in names) else []


def find_voc(tree):
    """Return {split: nodes} for image sets, else for folders of XML files; {} if there are neither."""
    parts = list(_divide_by_image_sets(tree)) or list(_divide_by_folders(tree))
    xml_folders = {folder for _, _, folders in parts for folder in folders}
    common = _common_keys(tree, xml_folders)
    found = {}
    for split, node, _ in parts:
        node = {"NAME": "PascalVOCDataset", "ROOT": str(tree.root), **node, **common}
        found.setdefault(split, []).append(node)
    return found


def _divide_by_image_sets(tree):
    """Yield (split, keys of the node, XML folders) per split, and per further test set, of data in VOC's own layout."""
    sets = {}  # {folder that contains ImageSets: names of its image sets}
    for file in tree.find(".txt"):
        if file.parts[-3:-1] == ("ImageSets", "Main"):
            sets.setdefault(file.parents[2], []).append(file.stem)

    chosen = {}  # {split or further test set: {path of an image set: folder of XML files}}
    for base, names in sets.items():
        known = [name for name in IMAGE_SETS if name in names]
        if {"train", "trainval"} & set(known):
            known += sorted(filter(MORE_SETS.fullmatch, names))
        if "train" in known and "trainval" in known:
            known.remove("trainval")
        for name in known or names[:1]:
            key = name if MORE_SETS.fullmatch(name) else split_of(name)
            chosen.setdefault(key, {})[base / name] = base / "Annotations"
    for name, folders in chosen.items():
        yield split_of(name), {"IMAGE_SETS": list(map(str, folders))}, folders.values()


def _divide_by_folders(tree):
    """Yield (split, keys of the node, [folder]) for each folder with VOC's XML files."""
    images, done = tree.find(*IMAGE_SUFFIXES), set()
    for file in tree.find(".xml"):
        folder = file.parent
        if folder in done or not _read(tree.root / file):
            continue
        done.add(folder)
        candidates = [image.parent for image in images if image.stem == file.stem]
        if not candidates:
            raise UserError(f"{tree.root / file}: no folder in {tree.root} has an image of this name")
        split = split_of(folder)
        keys = {"ANNOTATIONS": str(folder), "IMAGES": str(_nearest_first(folder, split, candidates)[0])}
        yield split, keys, [folder]


def _read(path):
    """Return the annotation in an XML file, or None for other and broken files; the data set reports broken ones."""
    try:
        return read_annotation(path)
    except UserError:
        return None


def _common_keys(tree, folders):
    """Return CLASSES, all names in the XML files, and ONE_BASED: false if a box starts at 0 (VOC's start at 1)."""
    names, one_based = set(), True
    for file in tree.find(".xml"):
        if not folders.isdisjoint(file.parents) and (annotation := _read(tree.root / file)):
            for thing in annotation.objects:
                names.add(thing.name)
                if thing.box[0] < 1 or thing.box[1] < 1:
                    one_based = False
    keys = {"CLASSES": sorted(names)}
    return keys if one_based else {**keys, "ONE_BASED": False}


def find_yolo(tree):
    """Return {split: nodes} for data.yaml, else for folders of labeled images; {} without any class names."""
    path, content = _find_data_yaml(tree)
    class_files = [file for file in tree.files if file.name.endswith(CLASS_FILES)]
    if content:
        classes = _classes_of_data_yaml(path, content)
        folders = _folders_of_data_yaml(tree.root, path, content)
    elif class_files:
        lines = read_text(tree.root / class_files[0], limit=TEXT_LIMIT).splitlines()
        classes = list(filter(None, map(str.strip, lines)))
        folders = _labeled_folders(tree)
    else:
        return {}
    node = {"NAME": "YoloDataset", "ROOT": str(tree.root), "CLASSES": classes}
    return {split: [{**node, "IMAGES": images}] for split, images in folders.items()}


def _labeled_folders(tree):
    """Return {split: folders in which at least one image has a label file}, without those inside another one."""
    folders, seen = {}, set()
    for image in tree.find(*IMAGE_SUFFIXES):
        folder = image.parent
        if seen.isdisjoint((folder, *folder.parents)) and find_label_file(tree.root, image):
            seen.add(folder)
            folders.setdefault(split_of(folder), []).append(str(folder))
    return folders


def _find_data_yaml(tree):
    """Return the path and the content of Ultralytics' data.yaml, under any name, or (None, None)."""
    for file in tree.find(".yaml", ".yml"):
        path = tree.root / file
        try:
            content = parse_yaml(read_text(path, limit=TEXT_LIMIT), path)
        except UserError:
            continue
        if isinstance(content, dict) and {"names", "train"} <= set(content):
            return path, content
    return None, None


def _classes_of_data_yaml(path, content):
    """Return the class names as a list; data.yaml may have {index: name} instead."""
    if "kpt_shape" in content:
        raise UserError(f"{path}: kpt_shape: these labels hold keypoints, which YoloDataset does not read")
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{path}: names must be numbered from 0 without gaps, got {shortened(list(names))}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: names: expected a list, or a mapping from numbers to names, got {shortened(names)}")
    return list(map(str, names))


def _folders_of_data_yaml(root, path, content):
    """Return {split: paths of image folders or of text files that list images, relative to root}."""
    # Ultralytics resolves paths against a folder in its settings, so these bases are tried.
    bases = [path.parent / str(content.get("path") or ""), path.parent, root]
    found = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{path}: {split}: expected a folder or a list of folders, got {shortened(entries)}")
        for entry in entries:
            candidates = []
            for base in bases:
                # Roboflow writes ../train/images for train/images.
                candidates += [base / entry, base / re.sub(r"^(\.\./)+", "", entry)]
            existing = list(filter(Path.exists, candidates))
            if existing:
                found.setdefault(split, []).append(os.path.relpath(existing[0], root))
            elif split != "test":  # a test split is often named, but not downloaded
                tried = " nor ".join(dict.fromkeys(map(str, candidates)))
                raise UserError(f"{path}: {split}: {entry}: there is no {tried}")

    # One folder for both splits means that the images are not divided.
    if found.get("val") == found.get("train"):
        found.pop("val", None)
    return found
