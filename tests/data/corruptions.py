"""Small good data sets in the formats that detlite reads, and single corruptions of them.

A corruption is a function (folder, draw) -> Expected. It spoils one thing in a copy of a good set, chosen by the random
generator ``draw``, and returns the expected outcome, without using detlite.
"""

import io
import json
import os
import re
import shutil
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from detlite.data import ShapesDataset

WIDTH, HEIGHT, NUM_IMAGES = 64, 48, 6
CLASSES = ShapesDataset.classes
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Expected(NamedTuple):
    """The expected outcome of a corruption.

    Attributes:
        effect: "stop" training whatever the config says; "image" is for BAD_IMAGE to decide, "box" for BAD_BOXES;
            "warning" is for a check alone, and so is what is "out of reach" for every detector: in test data that is an
            error, as AP cannot be 1; "good" is nothing at all.
        named: what the message must name.
        images, objects: how many more or fewer there are to train on.
    """

    effect: str
    named: tuple = ()
    images: int = 0
    objects: int = 0


def write_sets(folder):
    """Write the good sets, and return the number of objects, which is the same in each."""
    source = ShapesDataset(image_size=WIDTH, seed=7)
    records = []
    for image, target in source:
        boxes = [[x1, y1, x2, min(y2, HEIGHT)] for x1, y1, x2, y2 in target["boxes"].int().tolist() if y1 < HEIGHT - 4]
        if len(boxes) == len(target["boxes"]) >= 2:
            records.append((image[:, :HEIGHT].permute(1, 2, 0).numpy(), boxes, target["labels"].tolist()))
        if len(records) == NUM_IMAGES:
            break
    for path in (
        "coco/images",
        "voc/JPEGImages",
        "voc/Annotations",
        "voc/ImageSets/Main",
        "yolo/images",
        "yolo/labels",
    ):
        (folder / path).mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    for number, (pixels, boxes, labels) in enumerate(records):
        stem = f"picture{number}"
        name = stem + (".jpg" if number % 2 else ".png")
        for path in ("coco/images", "voc/JPEGImages", "yolo/images"):
            Image.fromarray(pixels).save(folder / path / name)
        content["images"].append({"id": 70 + number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        lines, objects = [], []
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": 900 + len(content["annotations"]), "image_id": 70 + number, "category_id": label, "bbox": box}
            content["annotations"].append({**row, "area": box[2] * box[3], "iscrowd": 0})
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(CORNERS, (x1 + 1, y1 + 1, x2, y2), strict=True))
            objects.append(f"<object><name>{CLASSES[label - 1]}</name><bndbox>{corners}</bndbox></object>")
            parts = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT)
            lines.append(" ".join(map(str, (label - 1, *parts))))
        (folder / f"voc/Annotations/{stem}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
        (folder / f"yolo/labels/{stem}.txt").write_text("\n".join(lines) + "\n")
    (folder / "coco/all.json").write_text(json.dumps(content))
    (folder / "voc/ImageSets/Main/all.txt").write_text("\n".join(f"picture{i}" for i in range(NUM_IMAGES)) + "\n")
    return len(content["annotations"])


def node(folder, form):
    """Return the config node of a set."""
    if form == "coco":
        return {"NAME": "CocoDataset", "ANNOTATIONS": str(folder / "all.json"), "IMAGES": str(folder / "images")}
    if form == "voc":
        return {"NAME": "PascalVOCDataset", "ROOT": str(folder), "IMAGE_SETS": ["all"], "CLASSES": CLASSES}
    return {"NAME": "YoloDataset", "ROOT": str(folder), "IMAGES": ["images"], "CLASSES": CLASSES}


def put_special(kind, path):
    """Replace a file by something that is no file with content."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "no bytes":
        path.touch()


SPECIAL = ("folder", "pipe", "link to itself", "dangling link", "no bytes", "missing")


def flip_bit(data, draw, first=0):
    place = draw.randrange(first, len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


# Images: functions (bytes, draw) -> bytes, and one that says whether Pillow decodes the whole of what came out.


def truncate(data, draw):
    return data[: draw.randrange(len(data))]


def claim(width, height):
    """Return a change into a PNG whose header has another size than its pixels."""

    def spoil(data, draw):
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = b"IDAT" + zlib.compress(b"\0" * 1000)
        chunks = [head, body, b"IEND"]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
        )

    return spoil


def converted(mode, file_format, **options):
    """Return a change into the same picture in another mode or format, which is good data."""

    def change(data, draw):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
        if options.get("save_all"):
            options["append_images"] = [image.rotate(180)]
        file = io.BytesIO()
        image.save(file, file_format, **options)
        return file.getvalue()

    return change


def is_whole(data):
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:
        return False
    return image.size == (WIDTH, HEIGHT)


IMAGES = {
    "truncated": truncate,
    "a bit flipped": flip_bit,
    "a bit flipped in the head": lambda data, draw: flip_bit(data[:60], draw) + data[60:],
    "a block of zeros": lambda data, draw: (lambda p: data[:p] + bytes(300) + data[p + 300 :])(
        draw.randrange(len(data))
    ),
    "text": lambda data, draw: b"<html>404 Not Found</html>",
    "bytes behind the end": lambda data, draw: data + b"more",
    "claims 20000 x 20000": claim(20000, 20000),
    "claims 2 billion wide": claim(2**31 - 1, 2**31 - 1),
    "claims 100 MB": claim(6000, 6000),
    "claims its size only": claim(WIDTH, HEIGHT),
    "0 x 0": claim(0, 0),
    "CMYK": converted("CMYK", "JPEG"),
    "progressive": converted("RGB", "JPEG", progressive=True),
    "gray": converted("L", "JPEG"),
    "16 bits": converted("I;16", "PNG"),
    "palette": converted("P", "PNG", transparency=bytes(range(100))),
    "RGBA": converted("RGBA", "PNG"),
    "gray, alpha": converted("LA", "PNG"),
    "black and white": converted("1", "PNG"),
    "animated PNG": converted("RGB", "PNG", save_all=True),
    "animated GIF": converted("P", "GIF", save_all=True),
    "TIFF": converted("RGB", "TIFF"),
    "WebP": converted("RGB", "WEBP"),
}


def pick_image(folder, draw):
    return draw.choice(sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")))


def image_corruption(change, form):
    def corrupt(folder, draw):
        path = pick_image(folder, draw)
        path.write_bytes(change(path.read_bytes(), draw))
        return Expected("good") if is_whole(path.read_bytes()) else Expected("image", (path.name,))

    return corrupt


def image_replaced(kind, form):
    def corrupt(folder, draw):
        path = pick_image(folder, draw)
        lost = len((folder / f"labels/{path.stem}.txt").read_text().splitlines()) if form == "yolo" else 0
        put_special(kind, path)
        if kind == "missing" and form == "yolo":
            return Expected("warning", (f"{path.stem}.txt",), -1, -lost)  # labels without an image
        return Expected("stop" if kind == "missing" and form == "voc" else "image", (path.stem,))

    return corrupt


def other_size(folder, draw):
    path = pick_image(folder, draw)
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(path)
    return Expected("image", (path.name,))


def upside_down(folder, draw):
    path = pick_image(folder, draw)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).convert("RGB").save(path, "JPEG", exif=exif)
    return Expected("warning", (path.name,))


# Text: what can befall a whole file, whatever it says.


def text_corruptions(pattern, read):
    """{name: function} for the files that a pattern finds; ``read``: bytes -> content, to see that nothing changed."""

    def spoiled(change):
        def corrupt(folder, draw):
            path = draw.choice(sorted(folder.glob(pattern)))
            before = path.read_bytes()
            after = change(before, draw)
            while (content := attempt(read, after)) is not None and content != read(before):  # another true sentence
                after = change(before, draw)
            path.write_bytes(after)
            return Expected("stop", (path.name,)) if content is None else Expected("good")

        return corrupt

    def replaced(kind):
        def corrupt(folder, draw):
            path = draw.choice(sorted(folder.glob(pattern)))
            put_special(kind, path)
            return Expected("stop", (path.name,))

        return corrupt

    changes = {
        "truncated": truncate,
        "a bit flipped": flip_bit,
        "not UTF-8": lambda data, draw: (lambda p: data[:p] + b"\xff\xfe\xe9" + data[p:])(draw.randrange(1, len(data))),
        "binary": lambda data, draw: draw.randbytes(500),
        "UTF-8 with BOM": lambda data, draw: b"\xef\xbb\xbf" + data,
        "UTF-16": lambda data, draw: data.decode().encode("utf-16"),
        "a NUL": lambda data, draw: (lambda p: data[:p] + b"\0" + data[p:])(draw.randrange(len(data))),
    }
    return {name: spoiled(change) for name, change in changes.items()} | {kind: replaced(kind) for kind in SPECIAL}


def attempt(function, argument):
    try:
        return function(argument)
    except (ValueError, SyntaxError, RecursionError):
        return None


def read_coco(data):
    return json.loads(data.decode("utf-8-sig"))


def read_voc(data):
    return ElementTree.canonicalize(data.decode("utf-8-sig") if data[:2] not in (b"\xff\xfe", b"\xfe\xff") else data)


# COCO


RAW = "@raw@"  # marks a value that is written without quotes


def coco(change):
    """``change(content, draw)`` edits the JSON and returns what is expected, or the text to write and that."""

    def corrupt(folder, draw):
        path = folder / "all.json"
        content = json.loads(path.read_text())
        result = change(content, draw)
        text, expected = result if isinstance(result[0], str) and len(result) == 2 else (json.dumps(content), result)
        path.write_text(text.replace(f'"{RAW}', "").replace(f'{RAW}"', ""))
        return expected

    return corrupt


def edit(section, effect, **values):
    def change(content, draw):
        row = draw.choice(content[section])
        named = row["file_name"] if section == "images" and effect == "image" else str(row["id"])
        for key, value in values.items():
            if value is ...:
                del row[key]
            else:
                row[key] = value(row) if callable(value) else value
        if "id" in values:
            named = ""
        if "file_name" in values and effect == "image":
            named = "" if "\\ud" in ascii(row["file_name"]) else os.path.basename(row["file_name"])
        return Expected(effect, () if effect == "good" else ("all.json" if effect != "image" else "", named))

    return coco(change)


def boxes(place, value):
    return lambda row: [*row["bbox"][:place], value, *row["bbox"][place + 1 :]]


def raw(text):
    return f"{RAW}{text}{RAW}"


def whole_text(change, effect="stop"):
    """``change``: JSON's text -> another."""
    return coco(lambda content, draw: (change(json.dumps(content)), Expected(effect, ("all.json",))))


def structure(effect="stop", **values):
    def change(content, draw):
        content.update(values)
        return Expected(effect, ("all.json",))

    return coco(change)


def drop_objects(content, draw):
    image = draw.choice(content["images"])
    kept = [row for row in content["annotations"] if row["image_id"] != image["id"]]
    lost = len(content["annotations"]) - len(kept)
    content["annotations"] = kept
    return Expected("warning", (image["file_name"],), 0, -lost)


def repeat(section, effect, objects=0, **values):
    def change(content, draw):
        row = draw.choice(content[section])
        row = {**row, **values}
        content[section].append(row)
        return Expected(effect, ("all.json", str(row["id"])), 0, objects)

    return coco(change)


def renumber_categories(content, draw):
    for row in content["categories"]:
        row["id"] -= 100
    for row in content["annotations"]:
        row["category_id"] -= 100
    return Expected("good")


def negative_ids(content, draw):
    for row in content["images"]:
        row["id"] *= -1
    for row in content["annotations"]:
        row["image_id"] *= -1
        row["id"] *= -1
    return Expected("good")


def path_from_elsewhere(content, draw):
    row = draw.choice(content["images"])
    row["file_name"] = f"../images/./{row['file_name']}"
    return Expected("good")


BAD_NUMBERS = {"NaN": float("nan"), "infinite": float("inf"), "1e400": raw("1e400"), "null": None, "1e300": 1e300}
COCO = {
    **{f"x {name}": edit("annotations", "box", bbox=boxes(0, value)) for name, value in BAD_NUMBERS.items()},
    "width NaN": edit("annotations", "box", bbox=boxes(2, float("nan"))),
    "width 0": edit("annotations", "box", bbox=boxes(2, 0)),
    "height negative": edit("annotations", "box", bbox=boxes(3, -5)),
    "right of the image": edit("annotations", "box", bbox=boxes(0, WIDTH)),
    "above the image": edit("annotations", "box", bbox=boxes(1, -500)),
    "three numbers": edit("annotations", "stop", bbox=lambda row: row["bbox"][:3]),
    "five numbers": edit("annotations", "stop", bbox=lambda row: [*row["bbox"], 1]),
    "numbers in lists": edit("annotations", "stop", bbox=lambda row: [[x] for x in row["bbox"]]),
    "bbox a dict": edit("annotations", "stop", bbox={"x": 1}),
    "bbox text": edit("annotations", "stop", bbox="1 2 3 4"),
    "bbox null": edit("annotations", "stop", bbox=None),
    "no bbox": edit("annotations", "stop", bbox=...),
    "a word for a number": edit("annotations", "stop", bbox=boxes(1, "ten")),
    "true for a number": edit("annotations", "stop", bbox=boxes(3, True)),
    "400 digits": edit("annotations", "stop", bbox=boxes(0, 10**400)),
    "a number as text": edit("annotations", "good", bbox=lambda row: [str(x) for x in row["bbox"]]),
    "sticks out": edit("annotations", "out of reach", bbox=boxes(2, 10**6)),
    **{
        f"category {value!r}": edit("annotations", "stop", category_id=value)
        for value in (99, -1, 0, 1.0, 1.5, "1", True, None, [1], 2**70, float("nan"))
    },
    "no category": edit("annotations", "stop", category_id=...),
    **{f"image_id {value!r}": edit("annotations", "stop", image_id=value) for value in (5, "70", 70.0, None, {})},
    "iscrowd a word": edit("annotations", "stop", iscrowd="yes"),
    "area negative": edit("annotations", "warning", area=-4),
    "area 1e300": edit("annotations", "warning", area=1e300),
    "area NaN": edit("annotations", "warning", area=float("nan")),
    "area a word": edit("annotations", "stop", area="big"),
    "annotation id text": edit("annotations", "warning", id="a"),
    **{
        f"image width {value!r}": edit("images", "stop", width=value)
        for value in (0, -64, 64.0, "64", True, None, 10**30, float("nan"))
    },
    "no image height": edit("images", "stop", height=...),
    **{f"image {value} wide": edit("images", "image", width=value) for value in (WIDTH + 1, 10**9, 2**62)},
    **{f"image id {value!r}": edit("images", "stop", id=value) for value in ("70", 1.5, None, True)},
    **{
        f"file_name {name}": edit("images", "stop", file_name=value)
        for name, value in {"number": 7, "null": None, "empty": "", "NUL": "a\0.png", "endless": "a" * 10**5}.items()
    },
    **{
        f"file_name {name}": edit("images", "image", file_name=value)
        for name, value in {"half a surrogate": "\ud800.png", "a byte": "\udcff.png", "emoji": "\U0001f600.png"}.items()
    },
    "file_name elsewhere": edit("images", "image", file_name="../../../nowhere.png"),
    "file_name absolute": edit("images", "image", file_name="/nowhere.png"),
    "a device": edit("images", "image", file_name="/dev/zero"),
    "file_name around": coco(path_from_elsewhere),
    "annotation twice": repeat("annotations", "warning", 1),
    "object twice": repeat("annotations", "warning", 1, id=12345),
    "image id twice": repeat("images", "stop"),
    "category id twice": repeat("categories", "stop"),
    "category name twice": repeat("categories", "stop", id=44),
    "category id 1.5": edit("categories", "stop", id=1.5),
    "category name null": edit("categories", "stop", name=None),
    "category name a number": edit("categories", "stop", name=3),
    "negative categories": coco(renumber_categories),
    "negative ids": coco(negative_ids),
    "no objects in one": coco(drop_objects),
    "a list": whole_text(lambda text: "[1, 2]"),
    "images null": structure(images=None),
    "annotations a dict": structure(annotations={}),
    "annotations of lists": structure(annotations=[[1]]),
    "no categories": structure(categories=[]),
    "no images": structure(images=[], annotations=[]),
    "nested 100000 deep": whole_text(lambda text: text[:-1] + ', "x": ' + "[" * 10**5 + "]" * 10**5 + "}"),
    "5000 digits": whole_text(lambda text: text[:-1] + ', "x": ' + "1" * 5000 + "}"),
    "annotations twice": whole_text(lambda text: text[:-1] + ', "annotations": []}'),
    "bbox twice": whole_text(lambda text: text.replace('"bbox"', '"bbox": [1, 2, 3, 4], "bbox"', 1)),
    "text behind the end": whole_text(lambda text: text + "}"),
    "single quotes": whole_text(lambda text: text.replace('"', "'")),
    "key misspelled": whole_text(lambda text: text.replace('"bbox"', '"bbax"', 1)),
    **text_corruptions("all.json", read_coco),
}  # fmt: skip


# Pascal VOC


def voc(effect, change, named=""):
    """``change``: an XML file's text -> another."""

    def corrupt(folder, draw):
        path = draw.choice(sorted(folder.glob("Annotations/*.xml")))
        path.write_text(change(path.read_text()))
        name = f"{path.stem}." if effect == "image" else path.name
        return Expected(effect, () if effect == "good" else (name, named))

    return corrupt


def corner(key, value):
    return lambda text: re.sub(f"<{key}>.*?</{key}>", f"<{key}>{value}</{key}>", text, count=1)


def listed(line):
    def corrupt(folder, draw):
        path = folder / "ImageSets/Main/all.txt"
        path.write_bytes(path.read_bytes() + line)
        return Expected("stop", ("all",))

    return corrupt


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
)
VOC = {
    **{
        f"{key} {value or 'empty'}": voc("box", corner(key, value), "object 1")
        for key, value in [("xmin", "nan"), ("ymin", "inf"), ("xmax", "1e400"), ("xmin", ""), ("ymax", "ten"),
                           ("xmax", -3), ("xmax", 0), ("ymin", 10**6), ("xmin", 10**400)]
    },
    "no xmin": voc("box", lambda text: text.replace("xmin>", "xmen>", 2), "object 1"),
    "empty bndbox": voc("box", lambda text: text[: text.index("<xmin>")] + text[text.index("</bndbox>") :], "object 1"),
    "sticks out": voc("out of reach", corner("xmax", 1000), "object 1"),
    "unknown class": voc("stop", corner("name", "hexagon"), "hexagon"),
    "no name": voc("stop", corner("name", ""), "object 1"),
    "an object of nothing": voc("warning", lambda text: text.replace("</size>", "</size><object></object>")),
    "another root": voc("stop", lambda text: text.replace("annotation>", "annotations>")),
    "no root": voc("stop", lambda text: "<?xml version='1.0'?>"),
    **{f"image width {v}": voc("warning", corner("width", v)) for v in (0, -64, "wide", "nan", 10**12, "")},
    "size of 1 million": voc("image", corner("width", 10**6)),
    "another size": voc("image", corner("height", HEIGHT + 1)),
    "no size": voc("good", lambda text: text[:12] + text[text.index("</size>") + 7 :]),
    "a billion laughs": voc("stop", lambda text: LAUGHS + "]>" + text.replace("<name>", "<name>&m;", 1), "entity"),
    "external entity": voc("stop", lambda text: '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + text),
    "unknown encoding": voc("stop", lambda text: '<?xml version="1.0" encoding="klingon"?>' + text),
    "encoding that is none": voc("stop", lambda text: '<?xml version="1.0" encoding="zip"?>' + text),
    "nested 100000 deep": voc("good", lambda text: text[:12] + "<x>" * 10**5 + "</x>" * 10**5 + text[12:]),
    "lists a missing image": listed(b"gone\n"),
    "lists one twice": listed(b"picture2\n"),
    "lists bytes": listed(b"\xff\xfe\x00\n"),
    **text_corruptions("Annotations/*.xml", read_voc),
}  # fmt: skip


# YOLO


def yolo(effect, change):
    """``change``: the words of a file's first line -> others, or a text."""

    def corrupt(folder, draw):
        path = draw.choice(sorted(folder.glob("labels/*.txt")))
        first, *others = path.read_text().splitlines()
        path.write_text("\n".join([" ".join(map(str, change(first.split()))), *others]))
        return Expected(effect, (f"{path.name}:1",))

    return corrupt


def words(place, value):
    return lambda line: [*line[:place], value, *line[place + 1 :]]


def emptied(folder, draw):
    path = draw.choice(sorted(folder.glob("labels/*.txt")))
    lost = len(path.read_text().splitlines())
    path.write_text("")
    return Expected("warning", (f"{path.stem}.",), 0, -lost)


def read_yolo(data):
    rows = [line.split() for line in data.decode("utf-8-sig").splitlines()]
    for row in rows:
        if row and (len(row) != 5 or float(row[0]) not in (0, 1, 2)):
            raise ValueError("no object")
    return [[float(word) for word in row] for row in rows if row]


YOLO_TEXT = text_corruptions("labels/*.txt", read_yolo)
YOLO = {
    **{f"x {value}": yolo("box", words(1, value)) for value in ("nan", "inf", "1e400", "2.5", "-7", "1e300")},
    "width 0": yolo("box", words(3, 0)),
    "height negative": yolo("box", words(4, -0.25)),
    "sticks out": yolo("out of reach", words(3, 40)),
    **{f"class {value}": yolo("stop", words(0, value)) for value in (3, -1, 0.5, "nan", "inf", "circle", 10**400)},
    "four words": yolo("stop", lambda line: line[:4]),
    "six words": yolo("stop", lambda line: [*line, 0.9]),
    "commas": yolo("stop", lambda line: [",".join(line)]),
    "a word for a number": yolo("stop", words(2, "half")),
    **{name: YOLO_TEXT[name] for name in YOLO_TEXT if name not in ("missing", "no bytes")},
    "emptied": emptied,
}


def corruptions():
    """Return all corruptions, a list of (form, kind, function)."""
    found = []
    for form, own in (("coco", COCO), ("voc", VOC), ("yolo", YOLO)):
        found += [(form, f"image: {kind}", image_corruption(change, form)) for kind, change in IMAGES.items()]
        found += [(form, f"image: {kind}", image_replaced(kind, form)) for kind in SPECIAL]
        found.append((form, "image: EXIF rotation", upside_down))
        found.append((form, "nothing at all", lambda folder, draw: Expected("good")))
        found += [(form, kind, change) for kind, change in own.items()]
    found += [(form, "image: another size", other_size) for form in ("coco", "voc")]
    return found


def copy_set(good, folder):
    """Copy a set, to spoil the copy."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder, symlinks=True)
    return Path(folder)
