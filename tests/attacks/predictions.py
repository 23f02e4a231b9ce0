"""What detlite reads of its own runs: predictions, metrics and configs, mutated."""

import json
import shutil
from pathlib import Path

from inputs import small
from mutations import mutate, mutate_bytes, odd_value, put_odd_file
from verdict import Case

FILES = ["predictions.json", "metrics.jsonl", "config.yaml", "evaluation.json", "log.txt"]


def make(good, draw):
    """Return a case that scores a spoiled file, or resumes next to it."""
    shutil.copytree(good / "run", "output")
    path = Path("output", draw.choice([*FILES, *FILES[:1] * 4, *FILES[1:2] * 2]))
    kind = draw.choice(["values", "values", "values", "bytes", "odd file", "odd line"])
    if kind == "values" and path.suffix == ".json":
        path.write_text(json.dumps(mutate(json.loads(path.read_text()), draw)))
    elif kind == "odd file":
        put_odd_file(path, draw)
    elif path.suffix == ".jsonl" and kind != "bytes":
        lines = path.read_text().splitlines()
        line = draw.randrange(len(lines))
        spoiled = mutate(json.loads(lines[line]), draw) if kind == "values" else odd_value(draw)
        lines[line] = json.dumps(spoiled)
        path.write_text("\n".join(lines) + draw.choice(["", "\n"]))
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    name = f"results: {path.name}, {kind}"
    command = draw.choice(["score", "score", "report", "report", "compare", "resume"])
    if command == "resume":
        return Case(name, ["train", "--resume", *small(good), "SOLVER.MAX_ITER", "3"], (), ("output",))
    predictions = draw.choice(["output", str(path if path.suffix == ".json" else "output/predictions.json")])
    words = ["test", *small(good), "--predictions", predictions]
    if path.name == "config.yaml":
        words = ["test", "--config-file", str(path), "OUTPUT_DIR", "output", "--predictions", predictions]
    if command == "compare":
        words += ["--compare", draw.choice(["output", "output/predictions.json", str(good / "run"), ".", "/dev/zero"])]
    return Case(name, words + ["--report"] * (command != "score"), (), ("output",))
