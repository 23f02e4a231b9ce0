"""COCO's, Pascal VOC's and YOLO's files in somebody's folder, each as nodes of DATASETS by split.

``tree`` is {folder, relative to the root: names of its files}. Splits are told by words in the names of files and
folders.
"""

import logging
import os
import re
from pathlib import Path

from detlite.config.yaml import parse_yaml
from detlite.data.datasets.coco_json import read_json
from detlite.data.datasets.pascal_voc_xml import read_annotation
from detlite.data.datasets.yolo import find_label_file
from detlite.data.image_files import IMAGE_SUFFIXES
from detlite.errors import UserError

logger = logging.getLogger("detlite")

MOST_JSON = 50  # files that are opened; LabelMe has one an image
WORDS = {"train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test"}
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
IMAGE_SET_PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"), ("trainval", "val"))
CLASS_FILES = ("classes.txt", "predefined_classes.txt", ".names")


def split_of(path):
    """train, val or test, if a word of the path says so; the last such word counts.

    >>> split_of("annotations/instances_val2017.json"), split_of("data/Training/x"), split_of("images/trainer")
    ('val', 'train', None)
    """
    found = [WORDS[word] for word in re.findall("[a-z]+", str(path).lower()) if word in WORDS]
    return found[-1] if found else None


def _images(names):
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def _nearest(path, folders):
    """Folders, those likely to belong to a path first: its own, then those of its split, then the others."""
    own = os.path.dirname(path) or "."
    return sorted(folders, key=lambda folder: (folder != own, split_of(folder) != split_of(path)))


def find_coco(root, tree):
    """{split: nodes} of COCO's JSON files that have boxes, with the folders of their images; may be empty."""
    found = {}
    files = [
        os.path.normpath(os.path.join(folder, name))
        for folder, names in tree.items()
        for name in names
        if name.endswith(".json")
    ]
    files = [file for file in files if os.path.basename(file).startswith("instances_")] or files
    for file in sorted(files, key=lambda file: -(root / file).stat().st_size)[:MOST_JSON]:
        try:
            content = read_json(root / file)
        except UserError as error:
            if isinstance(error.__cause__, ValueError):  # broken, as a download cut short
                if split_of(file):
                    raise  # without it, the other splits would be taken for all there is
                logger.warning("warning: left out: %s", error)
            continue
        names = [row.get("file_name") for row in content["images"]]
        boxed = not content["annotations"] or any("bbox" in row for row in content["annotations"][:100])
        if not names or not boxed or not all(isinstance(name, str) for name in names):
            continue
        some = {names[0], names[len(names) // 2], names[-1]}
        folders = [f for f in _nearest(file, tree) if all((root / f / name).is_file() for name in some)]
        if not folders:
            raise UserError(f"{root / file}: no folder in {root} has its image {names[0]!r}")
        node = {"NAME": "CocoDataset", "ROOT": str(root), "ANNOTATIONS": file, "IMAGES": folders[0]}
        found.setdefault(split_of(file), []).append(node)
    return found


def find_voc(root, tree):
    """{split: nodes} of image sets or, where there are none, of folders of XML files; may be empty."""
    start = {"NAME": "PascalVOCDataset", "ROOT": str(root)}
    main = os.path.join("ImageSets", "Main")
    sets = {
        str(Path(folder).parent.parent): [Path(name).stem for name in names if name.endswith(".txt")]
        for folder, names in tree.items()
        if folder.endswith(main)
    }
    found, xml_folders = {}, set()
    if sets:
        pairs = [pair for pair in IMAGE_SET_PAIRS if any(set(pair) <= set(names) for names in sets.values())]
        wanted = dict(zip(("train", "val"), pairs[0], strict=True)) if pairs else {None: None}
        if "val" in wanted.values() and any("test" in names for names in sets.values()):
            wanted["test"] = "test"
        for split, name in wanted.items():
            having = {
                base: name or sorted(names, key=lambda name: name != "trainval")[0]
                for base, names in sets.items()
                if name in names or not name
            }
            image_sets = [os.path.normpath(os.path.join(base, name)) for base, name in having.items()]
            found[split] = [{**start, "IMAGE_SETS": image_sets}]
            xml_folders |= {os.path.join(base, "Annotations") for base in having}
    else:
        for folder, names in tree.items():
            files = [name for name in names if name.lower().endswith(".xml")]
            stem = next((Path(name).stem for name in files if _is_annotation(root / folder / name)), None)
            if stem is None:
                continue
            having = [f for f, names in tree.items() if stem in {Path(name).stem for name in _images(names)}]
            if not having:
                raise UserError(f"{root / folder / stem}.xml: no folder in {root} has an image of this name")
            images = _nearest(os.path.join(folder, "x"), having)[0]
            found.setdefault(split_of(folder), []).append({**start, "ANNOTATIONS": folder, "IMAGES": images})
            xml_folders.add(folder)
    common = _common_keys(path for folder in sorted(xml_folders) for path in sorted((root / folder).glob("*.xml")))
    return {split: [{**node, **common} for node in nodes] for split, nodes in found.items()}


def _is_annotation(path):
    try:
        return bool(read_annotation(path))
    except UserError:
        return False


def _common_keys(files):
    """CLASSES, the names in XML files, sorted, and ONE_BASED false if a box begins at 0: VOC's own begin at 1.

    Files that cannot be read are for the reader to report.
    """
    names, lowest = set(), 1
    for path in files:
        try:
            annotation = read_annotation(path)
        except UserError:
            continue
        names |= set(annotation.names)
        lowest = min([lowest, *annotation.boxes[:, :2].ravel().tolist()])
    return {"CLASSES": sorted(names), **({} if lowest >= 1 else {"ONE_BASED": False})}


def find_yolo(root, tree):
    """{split: nodes} of what data.yaml names or, where there is none, of images with labels; may be empty."""
    for folder, names in tree.items():
        for name in names:
            if name.endswith((".yaml", ".yml")):
                content = _data_yaml(root / folder / name)
                if content:
                    return _from_data_yaml(root, root / folder / name, content)
    lists = [root / folder / name for folder, names in tree.items() for name in names if name.endswith(CLASS_FILES)]
    if not lists:
        return {}
    classes = [line.strip() for line in lists[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    found = {}
    for folder, names in tree.items():
        if any(find_label_file(root, os.path.join(folder, name)) for name in _images(names)):
            found.setdefault(split_of(folder), []).append(folder)
    return _yolo_nodes(root, found, classes)


def _yolo_nodes(root, found, classes):
    start = {"NAME": "YoloDataset", "ROOT": str(root), "CLASSES": classes}
    return {split: [{**start, "IMAGES": folders}] for split, folders in found.items()}


def _data_yaml(path):
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"), path)
    except (UserError, OSError, UnicodeError):
        return None
    return content if isinstance(content, dict) and {"names", "train"} <= set(content) else None


def _from_data_yaml(root, path, content):
    """The data sets that Ultralytics' data.yaml names, wherever its paths turn out to count from."""
    names = content["names"]
    classes = [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else list(map(str, names))
    if isinstance(names, dict) and sorted(names) != list(range(len(names))):
        raise UserError(f"{path}: names must be numbered from 0 without gaps, got {sorted(names)}")
    if "kpt_shape" in content:
        raise UserError(f"{path}: kpt_shape: these labels hold keypoints, which YoloDataset does not read")
    bases = [path.parent / str(content.get("path") or ""), path.parent, root]
    found = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        places = []
        for entry in [entries] if isinstance(entries, str) else entries:
            tried = [base / start for base in bases for start in (entry, re.sub(r"^(\.\./)+", "", entry))]
            there = [place for place in tried if place.exists()]
            if there:
                places.append(os.path.relpath(there[0], root))
            elif split != "test":
                raise UserError(f"{path}: {split}: {entry}: there is no {' nor '.join(dict.fromkeys(map(str, tried)))}")
        if places:
            found[split] = places
    if found.get("val") == found.get("train"):
        found.pop("val", None)
    return _yolo_nodes(root, found, classes)
