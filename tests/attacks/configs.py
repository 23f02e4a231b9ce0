"""Configs and KEY VALUE pairs with mutated keys and values, oddities of YAML, and odd base files."""

from pathlib import Path

import yaml

from inputs import small_config
from mutations import mutate, mutate_bytes, odd_value, put_odd_file
from verdict import Case

ODDITIES = [
    "&a [*a]", "*unknown", "!!int ''", "!!float '_'", "!!int '0x'", "!!bool maybe", "!!null x", "!!str",
    "!!binary gA==", "!!set {a}", "!!omap [a: 1]", "!!timestamp 2001-01-01", "!<tag:x> 1", "!!python/name:os.system ''",
    "!!map 1", "!!python/object/apply:os.system ['touch ran']", "!!seq {}", "1:30", "0o7", "0x_", "+", ".", "..", "=",
    "@x", "`x`", "[", "]", "{", "'open", '"\\x"', "{a: 1, a: 2}", "{1: 2}", "{null: 1}", "{[a]: 1}", "{<<: {a: 1}}",
    "\t1", "|\n  text", ">+\n\n", "? a\n: b", "\x00", "\u2028", "9" * 5000, "1e999999999", "-" * 100, "[" * 2000,
    "%YAML 9.9", "\n---\na: 1", "\n...\nx", "# comment", "'a\\\n  b'", "{NAME: }", "{NAME: [VGG]}",
    "{NAME: VGG, NAME: VGG}",
]  # fmt: skip
BASES = ["own.yaml", "nowhere.yaml", "/dev/zero", "/dev/full", "/etc/passwd", ".", "../elsewhere/notes.txt", "odd.yaml"]
VIEWS = [["visualize", "--what", what, "--output", "output"] for what in ("inputs", "matches")]
COMMANDS = [["explain"], ["explain", "--cost"], ["check", "--data-only"], ["check"], ["train"], ["anchors"], *VIEWS]


def make(good, draw):
    """Return a case with a spoiled config."""
    tree, words = small_config(), []
    kind = draw.choice(["keys", "keys", "keys", "oddity", "bytes", "words", "base", "odd file", "aliases"])
    text = yaml.safe_dump(mutate(tree, draw) if kind == "keys" else tree, sort_keys=False)
    if kind == "oddity":
        lines = text.splitlines()
        line = draw.randrange(len(lines))
        lines[line] = f"{lines[line].partition(':')[0]}: {draw.choice(ODDITIES)}"
        text = "\n".join(lines)
    elif kind == "words":
        words = [draw.choice(list(_keys(tree))), str(draw.choice([odd_value(draw), draw.choice(ODDITIES)]))]
        words = [word.replace("\0", "") for word in words][: draw.choice([1, 2, 2, 2, 2, 2])]
    elif kind == "base":
        put_odd_file(Path("odd.yaml"), draw)
        base = draw.choice([*BASES, BASES[:3], odd_value(draw)])
        text = yaml.safe_dump({"_BASE_": base, **tree})
    elif kind == "aliases":
        text = "a: &a0 [x]\n" + "".join(f"b{n}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(9)) + f"SEED: *a{9}\n"
    content = text.encode("utf-8", "surrogatepass")
    Path("own.yaml").write_bytes(mutate_bytes(content, draw) if kind == "bytes" else content)
    if kind == "odd file":
        put_odd_file(Path("own.yaml"), draw)
    command = [*draw.choice(COMMANDS), "--config-file", "own.yaml"]
    if command[0] == "explain":
        words = ["--set", *words] if words else []
        return Case(f"config: {kind}", command + words)
    # Absurd numbers of steps are no attack: the training would take them.
    words = ["SOLVER.MAX_ITER", "1", "SOLVER.EPOCHS", "null", *words]
    if draw.random() < 0.8:
        return Case(f"config: {kind}", [*command, "OUTPUT_DIR", "output", *words])
    return Case(f"config: {kind}", command + words, (".", "..", "/"))


def _keys(tree, prefix=""):
    """Yield the dotted keys of a config."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield from _keys(value, f"{prefix}{key}.")
