"""Find data sets in COCO's, Pascal VOC's and YOLO's formats in a folder, as nodes of DATASETS by split.

``tree`` is {folder, relative to the root: names of its files}. Words in the names of files and folders tell the split.
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

MOST_JSON = 50  # files that are opened; LabelMe writes one per image
WORDS = {"train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test"}
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
IMAGE_SETS = os.path.join("ImageSets", "Main")
IMAGE_SET_PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"), ("trainval", "val"))
CLASS_FILES = ("classes.txt", "predefined_classes.txt", ".names")


def split_of(path):
    """Return train, val or test, by the last such word of a path; None if there is none.

    >>> split_of("annotations/instances_val2017.json"), split_of("data/Training/x"), split_of("images/trainer")
    ('val', 'train', None)
    """
    found = [WORDS[word] for word in re.findall("[a-z]+", str(path).lower()) if word in WORDS]
    return found[-1] if found else None


def _images(names):
    return [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def _nearest_first(folder, split, folders):
    """Sort folders by how likely they belong to a file: the file's folder, folders of its split, then the others."""
    return sorted(folders, key=lambda other: (other != folder, split_of(other) != split))


def find_coco(root, tree):
    """Return {split: nodes} of COCO's JSON files that have boxes, with the folders of their images; may be empty."""
    found = {}
    for file in _json_files(root, tree):
        names = _names_of_images(root, file)
        if not names:
            continue
        # Three images stand for all.
        some = {names[0], names[len(names) // 2], names[-1]}
        for folder in _nearest_first(os.path.dirname(file) or ".", split_of(file), tree):
            if all((root / folder / name).is_file() for name in some):
                break
        else:
            raise UserError(f"{root / file}: no folder in {root} has its image {names[0]!r}")
        node = {"NAME": "CocoDataset", "ROOT": str(root), "ANNOTATIONS": file, "IMAGES": folder}
        found.setdefault(split_of(file), []).append(node)
    return found


def _json_files(root, tree):
    """Return the JSON files that may be COCO's, the largest first: named instances_* if there are any, else all."""
    files = []
    for folder, names in tree.items():
        files += [os.path.normpath(os.path.join(folder, name)) for name in names if name.endswith(".json")]
    instances = [file for file in files if os.path.basename(file).startswith("instances_")]
    return sorted(instances or files, key=lambda file: -(root / file).stat().st_size)[:MOST_JSON]


def _names_of_images(root, file):
    """Return the names of a COCO file's images, or an empty list if it is another file or has no boxes."""
    try:
        content = read_json(root / file)
    except UserError as error:
        # The file may be broken, for example by an interrupted download. Without it, the other splits would be taken
        # for all data, so a broken file of a split is an error.
        if isinstance(error.__cause__, ValueError):
            if split_of(file):
                raise
            logger.warning("warning: left out: %s", error)
        return []
    names = [row.get("file_name") for row in content["images"]]
    has_boxes = not content["annotations"] or any("bbox" in row for row in content["annotations"][:100])
    has_names = all(isinstance(name, str) for name in names)
    return names if has_boxes and has_names else []


def find_voc(root, tree):
    """Return {split: nodes} of image sets or, if there are none, of folders of XML files; may be empty."""
    parts = list(_divide_by_image_sets(tree)) or list(_divide_by_folders(root, tree))
    xml_folders = {folder for _, _, folders in parts for folder in folders}
    common = _common_keys(root, xml_folders)
    found = {}
    for split, node, _ in parts:
        node = {"NAME": "PascalVOCDataset", "ROOT": str(root), **node, **common}
        found.setdefault(split, []).append(node)
    return found


def _divide_by_image_sets(tree):
    """Yield (split, keys of its node, folders of its XML files) for the image sets in VOC's own layout."""
    names_by_base = {}  # the names of the image sets, by the folder that holds ImageSets/Main
    for folder, names in tree.items():
        names = [Path(name).stem for name in names if name.endswith(".txt")]
        if folder.endswith(IMAGE_SETS) and names:
            names_by_base[str(Path(folder).parent.parent)] = names

    for split, chosen in _choose_image_sets(names_by_base).items():
        image_sets = [os.path.normpath(os.path.join(base, name)) for base, name in chosen.items()]
        yield split, {"IMAGE_SETS": image_sets}, [os.path.join(base, "Annotations") for base in chosen]


def _choose_image_sets(names_by_base):
    """Return {split: {base: name of its image set}}."""
    # The first pair of image sets that some base has is to train and test on.
    for pair in IMAGE_SET_PAIRS:
        if any(set(pair) <= set(names) for names in names_by_base.values()):
            wanted = dict(zip(("train", "val"), pair, strict=True))
            break
    else:
        chosen = {}
        for base, names in names_by_base.items():
            chosen[base] = "trainval" if "trainval" in names else names[0]
        return {None: chosen} if chosen else {}

    # Where images are there to validate on, those to test on are a third split.
    if wanted["val"] == "val" and any("test" in names for names in names_by_base.values()):
        wanted["test"] = "test"
    chosen = {split: {} for split in wanted}
    for split, wanted_name in wanted.items():
        for base, names in names_by_base.items():
            if wanted_name in names:
                chosen[split][base] = wanted_name
    return chosen


def _divide_by_folders(root, tree):
    """Yield (split, keys of its node, its folder in a list) for each folder of XML files."""
    for folder, names in tree.items():
        stem = _first_annotation(root / folder, names)
        if stem is None:
            continue
        candidates = []
        for other, other_names in tree.items():
            if stem in [Path(name).stem for name in _images(other_names)]:
                candidates.append(other)
        if not candidates:
            raise UserError(f"{root / folder / stem}.xml: no folder in {root} has an image of this name")
        split = split_of(folder)
        images = _nearest_first(folder, split, candidates)[0]
        yield split, {"ANNOTATIONS": folder, "IMAGES": images}, [folder]


def _first_annotation(folder, names):
    """Return the name, without suffix, of a folder's first XML file that is VOC's, or None."""
    for name in names:
        if name.lower().endswith(".xml"):
            try:
                if read_annotation(folder / name):
                    return Path(name).stem
            except UserError:
                continue
    return None


def _common_keys(root, folders):
    """Return CLASSES, the sorted names in XML files, and ONE_BASED false if a box begins at 0: VOC's begin at 1.

    Files that cannot be read are skipped here; the data set reports them.
    """
    names, lowest = set(), 1
    for folder in folders:
        for path in (root / folder).glob("*.xml"):
            try:
                annotation = read_annotation(path)
            except UserError:
                continue
            names |= set(annotation.names)
            lowest = min([lowest, *annotation.boxes[:, :2].ravel().tolist()])
    keys = {"CLASSES": sorted(names)}
    if lowest < 1:
        keys["ONE_BASED"] = False
    return keys


def find_yolo(root, tree):
    """Return {split: nodes} of data.yaml or, if there is none, of folders of labeled images; may be empty."""
    class_files = []
    for folder, names in tree.items():
        for name in names:
            path = root / folder / name
            if name.endswith((".yaml", ".yml")) and (content := _read_data_yaml(path)):
                classes = _classes_of_data_yaml(path, content)
                return _yolo_nodes(root, _folders_of_data_yaml(root, path, content), classes)
            if name.endswith(CLASS_FILES):
                class_files.append(path)
    if not class_files:
        return {}

    lines = class_files[0].read_text(encoding="utf-8-sig").splitlines()
    classes = [line.strip() for line in lines if line.strip()]
    found = {}
    for folder, names in tree.items():
        if any(find_label_file(root, os.path.join(folder, name)) for name in _images(names)):
            found.setdefault(split_of(folder), []).append(folder)
    return _yolo_nodes(root, found, classes)


def _yolo_nodes(root, folders, classes):
    """Return {split: nodes} of {split: folders of images}."""
    node = {"NAME": "YoloDataset", "ROOT": str(root), "CLASSES": classes}
    return {split: [{**node, "IMAGES": images}] for split, images in folders.items()}


def _read_data_yaml(path):
    """Return the content of Ultralytics' data.yaml, or None for another file."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"), path)
    except (UserError, OSError, UnicodeError):
        return None
    is_data_yaml = isinstance(content, dict) and {"names", "train"} <= set(content)
    return content if is_data_yaml else None


def _classes_of_data_yaml(path, content):
    """Return the class names, which are a list, or a dict by index."""
    if "kpt_shape" in content:
        raise UserError(f"{path}: kpt_shape: these labels hold keypoints, which YoloDataset does not read")
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UserError(f"{path}: names must be numbered from 0 without gaps, got {sorted(names)}")
        names = [names[index] for index in range(len(names))]
    return list(map(str, names))


def _folders_of_data_yaml(root, path, content):
    """Return {split: its folders or lists of images, relative to root}."""
    # Ultralytics resolves paths against a folder of its settings, so the base has to be guessed.
    bases = [path.parent / str(content.get("path") or ""), path.parent, root]
    found = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        if isinstance(entries, str):
            entries = [entries]
        for entry in entries:
            # Roboflow writes ../train/images for train/images.
            starts = (entry, re.sub(r"^(\.\./)+", "", entry))
            candidates = [base / start for base in bases for start in starts]
            existing = [candidate for candidate in candidates if candidate.exists()]
            if existing:
                found.setdefault(split, []).append(os.path.relpath(existing[0], root))
            elif split != "test":  # a test split is often named, but not there
                tried = " nor ".join(dict.fromkeys(map(str, candidates)))
                raise UserError(f"{path}: {split}: {entry}: there is no {tried}")

    # Without images to validate on, some files name the same folder twice.
    if found.get("val") == found.get("train"):
        found.pop("val", None)
    return found
