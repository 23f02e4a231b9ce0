"""Compare the numbers of two checkouts to the bit: weights, metrics, predictions and evaluation of short trainings.

    python benchmarks/same_numbers.py ../older
    python benchmarks/same_numbers.py ../older --only cascade fpn --keep /tmp/outputs

"This" checkout is the one that contains this script. Each variant is trained and tested in both, on the CPU.
`resume` also stops this checkout's run at half, and `resume-other` resumes the other checkout's run in this one.
Every variant prints one line if all is equal, and otherwise the first differences. The exit status is 1 if any differ.
All variants together take about 2 minutes on two CPU cores (measured).
"""

import argparse
import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

THIS = Path(__file__).resolve().parents[1]
STEPS = 8  # of a tiny training
HALF = f"checkpoint_{STEPS // 2:07d}.pth"
THREADS = "2"  # more or fewer could change the order of sums
FILES = ("model_final.pth", "metrics.jsonl", "predictions.json", "evaluation.json")
MEASURES = {"seconds", "memory", "eta", "time"}  # a key with one of these words differs from run to run
SHOWN = 3  # differences per file

QUICK_START = {
    "MODEL.DEVICE": "cpu",
    "DATASETS.TEST.NUM_IMAGES": 40,
    "EVALUATION.PICTURES": 0,
    "SOLVER.MAX_ITER": 30,
    "SOLVER.LOG_PERIOD": 5,
    "SOLVER.LR_SCHEDULER.STEPS": [20, 25],
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 10,
}

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": 11,
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RPN.HEAD.CONV_DIM": 16,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [16, 32],
    "MODEL.RPN.INSIDE_ONLY": False,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 20,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": 16,
    "DATASETS.TRAIN": [{"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 20}],
    "DATASETS.TEST": {"NAME": "ShapesDataset", "IMAGE_SIZE": 64, "NUM_IMAGES": 10, "SEED": 1},
    "DATASETS.NUM_WORKERS": 0,
    "TRANSFORMS.TRAIN": [{"NAME": "RandomHorizontalFlip"}],
    "TRANSFORMS.TEST": [],
    "SOLVER.BATCH_SIZE": 2,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.CHECKPOINT_PERIOD": STEPS // 2,
    "SOLVER.LOG_PERIOD": 3,
    "SOLVER.OPTIMIZER.LR": 0.01,
    "SOLVER.LR_SCHEDULER.STEPS": [6],
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 2,
    "EVALUATION.PICTURES": 0,
}

# In a pyramid the VGG is one level down, and each of its levels has an anchor size.
FPN = {key.replace("BACKBONE.", "BACKBONE.BOTTOM_UP."): value for key, value in TINY.items()}
FPN |= {
    "MODEL.BACKBONE.NAME": "FPN",
    "MODEL.BACKBONE.OUT_CHANNELS": 16,
    "MODEL.BACKBONE.EXTRA_LEVEL": False,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [[8], [16], [32]],
    "MODEL.ROI_HEADS.POOLER.NAME": "MultiLevelPooler",
    "MODEL.ROI_HEADS.POOLER.CANONICAL_SIZE": 32,
    "MODEL.ROI_HEADS.POOLER.POOLER.NAME": "RoIAlign",
}

VARIANTS = {
    "quick-start": QUICK_START,
    "cascade": TINY | {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads", "MODEL.ROI_HEADS.NMS.IOU": 0.4},
    "fpn": FPN,
    "bf16": TINY | {"MODEL.PRECISION": "bf16"},
    "accumulation": TINY | {"SOLVER.ACCUMULATION": 2},
    "workers-0": TINY,
    "workers-2": TINY | {"DATASETS.NUM_WORKERS": 2},
}


def renamed_since(root):
    """Return {this checkout's key: the key in the checkout at ``root``} of the keys renamed in between."""
    tables = []
    for checkout in (THIS, root):
        file = checkout / "detlite/config/renamed.py"
        tables.append(runpy.run_path(str(file))["RENAMED"] if file.is_file() else {})
    this_table, other_table = tables
    return {new: old for old, new in this_table.items() if old not in other_table}


class RunError(Exception):
    """Raised if a training fails, or begins again instead of resuming."""


class Checkout:
    """Run trainings in one checkout.

    Args:
        root: the checkout's folder.
        outputs: folder for the output folders of its runs.
        renamed: {key of VARIANTS: key in this checkout} where the two differ.
    """

    def __init__(self, root, outputs, renamed):
        self.root = root
        self.outputs = outputs
        self.renamed = renamed
        self.environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": THREADS}
        outputs.mkdir(parents=True)

        # An installed detlite must not win over the checkout's.
        command = [sys.executable, "-c", "import detlite; print(detlite.__file__)"]
        found = subprocess.run(command, cwd=outputs, env=self.environment, capture_output=True, text=True)
        if found.returncode or root not in Path(found.stdout.strip()).resolve().parents:
            sys.exit(f"{root}: detlite is imported from elsewhere: {found.stdout}{found.stderr}")

    def train(self, name, output, *arguments):
        """Train and test a variant in a separate process."""
        command = [sys.executable, "tools/train_net.py", *arguments]
        if name == "quick-start":
            command += ["--config-file", "configs/quickstart.yaml"]
        for key, value in {**VARIANTS[name], "OUTPUT_DIR": str(output)}.items():
            text = value if isinstance(value, str) else json.dumps(value)
            command += [self.renamed.get(key, key), text]
        run = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        if run.returncode:
            last_lines = (run.stdout + run.stderr).splitlines()[-10:]
            raise RunError("\n".join([f"{self.root}: {name} failed:", *last_lines]))

    def trained(self, name):
        """Return the output folder of a variant's whole run; train it unless it is there."""
        output = self.outputs / name
        if not output.exists():
            self.train(name, output)
        return output

    def resumed(self, name, source):
        """Resume a variant's run from a checkpoint at half, and return the output folder.

        Args:
            name: one of VARIANTS.
            source: the :class:`Checkout` whose run it is.
        """
        output = self.outputs / f"{name}-resumed-from-{source.outputs.name}"
        output.mkdir()
        # metrics.jsonl holds the whole run, so the resumed run has to truncate it.
        for file in ("metrics.jsonl", HALF):
            shutil.copy2(source.trained(name) / file, output / file)
        written = (output / HALF).stat().st_mtime_ns
        self.train(name, output, "--resume")
        if (output / HALF).stat().st_mtime_ns != written:
            raise RunError(f"{self.root}: {name} began again instead of resuming from {HALF}")
        return output


def values_below(value, path=()):
    """Yield (path, value) for each number and text within lists and dicts, except times and memory."""
    if not isinstance(value, (dict, list)) or not value:
        yield " ".join(map(str, path)), value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if not MEASURES & set(str(key).split("_")):
            yield from values_below(item, (*path, key))


def read_values(file):
    """Read a run's file as {name: tensor, number or text}."""
    if file.suffix == ".pth":
        return torch.load(file, map_location="cpu", weights_only=True)["model"]
    text = file.read_text(encoding="utf-8")
    value = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    return dict(values_below(value))


def describe_difference(first, second):
    """Return the first unequal numbers and the largest difference as text; None if the values are equal to the bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return f"{first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"
        if torch.equal(first, second):
            return None
        unequal = first != second
        largest = (first.double() - second.double()).abs().max().item()
        return f"{first[unequal][0].item()!r} and {second[unequal][0].item()!r}, largest difference {largest:.2g}"

    # repr tells 1 from 1.0, and takes NaN for the same as NaN.
    if repr(first) == repr(second):
        return None
    numbers = isinstance(first, (int, float)) and isinstance(second, (int, float))
    return f"{first!r} and {second!r}" + (f", difference {abs(first - second):.2g}" if numbers else "")


def compare_files(first, second):
    """Compare two files of a run; return how many values they have, and the first differences as text."""
    missing = [str(file) for file in (first, second) if not file.is_file()]
    if missing:
        return 0, [f"{file}: missing" for file in missing]
    first_values, second_values = read_values(first), read_values(second)
    found = []
    names = first_values | second_values
    for name in names:
        text = describe_difference(first_values.get(name, "missing"), second_values.get(name, "missing"))
        if text:
            found.append(f"{first.name}: {name}: {text}")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"{first.name}: {len(found)} of {len(names)} values differ in all"]
    return len(names), found


def folders_to_compare(name, this, other):
    """Run a variant in both checkouts; return the pairs of output folders that must be equal."""
    if name == "resume":
        resumed = this.resumed("workers-2", this)
        return [(resumed, other.resumed("workers-2", other)), (resumed, this.trained("workers-2"))]
    if name == "resume-other":
        return [(this.resumed("workers-2", other), other.trained("workers-2"))]
    return [(this.trained(name), other.trained(name))]


def compare_variant(name, this, other):
    """Run a variant in both checkouts and compare all files; return (number of values, differences)."""
    try:
        pairs = folders_to_compare(name, this, other)
    except RunError as error:
        return 0, [str(error)]
    count, found = 0, []
    for first, second in pairs:
        for file in FILES:
            file_count, differences = compare_files(first / file, second / file)
            count += file_count
            found += differences
    return count, found


def main():
    """Compare the variants; return the exit status."""
    names = [*VARIANTS, "resume", "resume-other"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", metavar="OTHER_CHECKOUT", type=Path)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder that keeps the outputs")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists")

    # Outputs are temporary unless they are to be kept.
    with contextlib.ExitStack() as stack:
        outputs = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        this = Checkout(THIS, outputs.resolve() / "this", {})
        root = options.other.resolve()
        other = Checkout(root, outputs.resolve() / "other", renamed_since(root))
        failed = False
        for name in options.only:
            count, found = compare_variant(name, this, other)
            text = "\n  ".join(["DIFFERENT", *found]) if found else f"equal ({count} values)"
            print(f"{name}: {text}", flush=True)
            failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
