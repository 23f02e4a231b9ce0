"""Odd values, names and bytes, and mutations that the generators share.

Every function draws from the random generator that it is given, so that a case is a function of its number.
"""

import copy
import os

NAN, INFINITY = float("nan"), float("inf")
NAMES = [
    "", " ", ".", "~", "~nobody/x", "../elsewhere/photo.png", "/dev/zero", "/dev/full", "/etc/passwd", "nowhere/x",
    "a\nerror: forged", "\x1b[31mred\x1b[0m", "\r\x08\x00", "=cmd|' /C calc'!A0", "<script>alert(1)</script>",
    "%s%n{0}${HOME}$(touch elsewhere)", "\u202e\u2028\ufeff", "\udcff", "é" * 300, "C:\\x", "nan", "1e5", "0x10",
    "null",
]  # fmt: skip
NUMBERS = [0, -1, 1, 3, 0.5, -0.5, 1e-30, 1e9, 1e30, 1e308, NAN, INFINITY, -INFINITY, 2**31, -(2**63), 2**64, 10**400]
OTHERS = [None, True, False, [], {}, [[]], [None], [1, "a"], {"NAME": "Nothing"}, {"": {}}, {"a": {"b": [1]}}]
SCALES = [-1, 0, 0.5, 1.5, 1e9, 1e30]


def odd_value(draw):
    """Draw a value that hardly any key expects."""
    return copy.deepcopy(draw.choice(draw.choice([NAMES, NUMBERS, OTHERS])))


def mutate(tree, draw, value=odd_value):
    """Return a copy of nested dicts and lists with one or two mutations."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice([1, 1, 2])):
        places = list(_places(tree))
        if places:
            _mutate_place(*draw.choice(places), draw, value)
    return tree


def _places(tree):
    """Yield each (container, key) in nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in list(items):
        yield tree, key
        if isinstance(child, (dict, list)):
            yield from _places(child)


def _mutate_place(container, key, draw, value):
    old = container[key]
    kind = draw.choice(["replace", "replace", "replace", "scale", "delete", "rename", "wrap", "repeat"])
    if kind == "scale" and isinstance(old, (int, float)) and not isinstance(old, bool):
        container[key] = type(old)(old * draw.choice(SCALES))
    elif kind == "delete":
        del container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[draw.choice([str(key).lower(), f"{key}S", *NAMES])] = container.pop(key)
    elif kind == "wrap":
        container[key] = [old]
    elif kind == "repeat" and isinstance(old, list):
        container[key] = old * draw.choice([2, 50])
    else:
        container[key] = value(draw)


def mutate_bytes(data, draw):
    """Return bytes with one fault of a disk, an editor or an attacker."""
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice([1, 8, 100, 4000]))
    kind = draw.randrange(8)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + bytes(end - start) + data[end:]
    if kind == 2:
        return data[:start] + draw.randbytes(end - start) + data[end:]
    if kind == 3:
        return data[:start] + data[end:]
    if kind == 4:
        return data[:start] + data[start:end] * 3 + data[end:]
    if kind == 5:
        return draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x1b]0;title\x07"]) + data
    if kind == 6:
        return data + draw.choice([b"\0", b"more", data])
    flipped = bytearray(data)
    for _ in range(draw.choice([1, 1, 5])):
        if flipped:
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def put_odd_file(path, draw):
    """Replace a file by something that is no file with content, or by an endless one."""
    path.unlink(missing_ok=True)
    kind = draw.choice(["folder", "pipe", "loop", "dangling link", "endless", "empty", "missing", "link outside"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "link outside":
        path.symlink_to(os.path.abspath("../elsewhere/notes.txt"))
    elif kind == "empty":
        path.touch()
    return kind
