"""Checkpoints: mutated, cut, in other layouts, with odd tensors, names and configs."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch

from inputs import small
from mutations import NAMES, mutate, mutate_bytes, odd_value, put_odd_file
from verdict import Case


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


TENSORS = [
    lambda tensor: tensor.double(),
    lambda tensor: tensor.half(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: tensor.bool(),
    lambda tensor: tensor.to(torch.float8_e4m3fn),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.to("meta"),
    lambda tensor: torch.nested.nested_tensor([tensor.flatten()]),
    lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    lambda tensor: torch.full_like(tensor, float("nan")),
    lambda tensor: torch.full_like(tensor, float("inf")),
    lambda tensor: torch.full_like(tensor, 1e30),
    lambda tensor: torch.zeros(1).expand(2**40),
    lambda tensor: torch.zeros(()),
    lambda tensor: tensor[:0],
    lambda tensor: tensor[None],
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor.to(torch.complex64).conj(),
    lambda tensor: torch.nn.Parameter(tensor),
    lambda tensor: tensor.numpy(),
    lambda tensor: tensor.tolist(),
    lambda tensor: Code(),
    lambda tensor: None,
]
KEYS = [1, None, True, (1, 2), 0.5, b"bytes", float("nan"), *NAMES, "module.x", "model", "config", "." * 1000]


def make(good, draw):
    """Return a case with a spoiled checkpoint."""
    content = torch.load(good / "run/checkpoint_0000002.pth", weights_only=False)
    kind = draw.choice(["tensor", "tensor", "name", "entry", "entry", "config", "layout", "bytes", "odd file"])
    model = content["model"]
    name = draw.choice(sorted(model))
    if kind == "tensor":
        model[name] = draw.choice(TENSORS)(model[name].float())
    elif kind == "name":
        model[draw.choice(KEYS)] = model.pop(name)
    elif kind == "entry":
        others = mutate({key: value for key, value in content.items() if key != "model"}, draw, _odd_entry)
        content = {"model": draw.choice([model] * 9 + [None]), **others}
    elif kind == "config":
        lines = content["config"].splitlines()
        line = draw.randrange(len(lines))
        lines[line] = f"{lines[line].partition(':')[0]}: {odd_value(draw)}"
        content["config"] = "\n".join([*lines, *draw.choice([[], ["IMPORTS: [random]"], ["_BASE_: /etc/passwd"]])])
    Path("weights").mkdir()
    Path("weights/movie.mkv.part").write_text("of another program")
    path = Path("weights/stranger.pth")
    # The config inside names a folder of the user's.
    if isinstance(content.get("config"), str):
        content["config"] = content["config"].replace(f"OUTPUT_DIR: {good / 'run'}", "OUTPUT_DIR: ../elsewhere")
    if kind == "layout":
        path = _write_layout(model, draw)
    else:
        with open(path, "wb") as file:
            torch.save(content, file, pickle_protocol=draw.choice([2, 2, 4]))
    if kind == "bytes":
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    elif kind == "odd file":
        put_odd_file(path, draw)
    return _command(f"checkpoint: {kind}", path, good, draw)


def _odd_entry(draw):
    return draw.choice([odd_value(draw), draw.choice(TENSORS)(torch.ones(3))])


def _write_layout(model, draw):
    """Write weights as another program would, and return the path."""
    path = Path("weights/stranger.pth")
    kind = draw.randrange(7)
    arrays = {name: value.numpy() for name, value in model.items()}
    if kind == 0:
        path = path.with_suffix(".npz")
        odd = draw.choice(
            [np.array([Code()]), np.array("1"), np.zeros(3, "M8[s]"), np.zeros(2, "S3"), np.zeros(2, ">f4")]
        )
        np.savez(path, **arrays, odd=odd)
    elif kind == 1:
        path = path.with_suffix(".safetensors")
        path.write_bytes(draw.choice([b"\xff" * 8, (2).to_bytes(8, "little") + b"{}", draw.randbytes(99)]))
    elif kind == 2:
        path.write_bytes(pickle.dumps(arrays))
    elif kind == 3:
        torch.save({f"module.{name}": value for name, value in model.items()}, path)
    elif kind == 4:
        torch.save({"state_dict": {f"backbone.body.{name}": value for name, value in model.items()}}, path)
    elif kind == 5:
        torch.save([model], path, _use_new_zipfile_serialization=False)
    else:
        torch.save(draw.choice([{}, [], 5, torch.zeros(3), {"model": {}}, {"model": []}, Code()]), path)
    return path


def _command(name, path, good, draw):
    command = draw.choice(["test", "test", "predict", "visualize", "train", "check", "resume", "resume", "export"])
    if command == "test":
        extra = draw.choice([[], ["--report"]])
        if draw.random() < 0.5:
            return Case(name, ["test", "--weights", str(path), *extra], ("weights",))
        return Case(name, ["test", "--weights", str(path), *extra, "OUTPUT_DIR", "output"])
    if command == "predict":
        shutil.copytree(good / "yolo/images", "images")
        words = ["images", "--output", "output", "--workers", "0", "--device", "cpu", "--score-threshold", "0"]
        return Case(name, ["predict", "--weights", str(path), *words])
    if command == "visualize":
        words = ["--what", draw.choice(["proposals", "detections"]), "--output", "output"]
        return Case(name, ["visualize", "--weights", str(path), *words])
    if command == "export" and draw.random() < 0.1:  # tracing takes seconds
        writes = ("output.pt2", ".detlite", "../tmp")  # torch makes a cache in tmp
        return Case(name, ["export", "--weights", str(path), "--output", "output.pt2"], writes)
    if command == "check":
        return Case(name, ["check", *small(good), "MODEL.WEIGHTS", str(path)])
    if command == "resume":
        shutil.copytree(good / "run", "output")
        os.unlink("output/checkpoint_0000002.pth")
        if os.path.lexists(path):
            os.rename(path, "output/checkpoint_0000002.pth")
        if draw.random() < 0.5:
            os.unlink("output/checkpoint_0000001.pth")
        return Case(name, ["train", "--resume", *small(good), "SOLVER.MAX_ITER", "3"], (), ("output",))
    return Case(name, ["train", *small(good), "MODEL.WEIGHTS", str(path)])
