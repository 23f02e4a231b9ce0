"""The swap matrix: build random combinations of the registered parts and try each.

    python benchmarks/swap_matrix.py --count 300 --seed 0
    python benchmarks/swap_matrix.py --import my_parts.py --only MATCHER=MyMatcher --count 50

The detectors are narrow and the images small. Each detector trains one step and detects once. The command prints which
combinations ran, which were refused and why, and which failed: by an error, a loss that is not finite, or a parameter
without gradient. The exit status is 1 if any failed.

The choices are read from the config tree and the registries: each slot of the model and of the solver, and the image
sampler, with every part registered for it, and each key that takes one of a few words, such as
MODEL.ROI_HEADS.BOX_OUTPUTS. If the parts of a combination do not fit together, building it must raise a UserError.
"""

import itertools
import random
import sys
import time
import traceback
import typing
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from detlite.cli import run_command
from detlite.cli.arguments import command_parser, whole_number
from detlite.config import load_config
from detlite.config.defaults import Datasets, Root, Solver
from detlite.contracts import check_detections
from detlite.data import ShapesDataset, build_image_sampler
from detlite.errors import UserError, suggest
from detlite.modeling import build_model
from detlite.parts import Slot, SlotList
from detlite.registry import META_ARCHITECTURES
from detlite.seeding import derive_seed
from detlite.signature import config_keys
from detlite.solver import build_lr_scheduler, build_optimizer
from detlite.testing.contract import Case
from detlite.testing.detectors import SIZES, check_gradients, detection_batch
from detlite.testing.networks import device_of

SLOTS = {"MODEL": Root.slots["MODEL"]} | {f"SOLVER.{name}": slot for name, slot in Solver.slots.items()}
SLOTS["DATASETS.IMAGE_SAMPLER"] = Datasets.slots["IMAGE_SAMPLER"]
STEPS = 10  # length of the schedule; only the first step is run
COMMON = {"MODEL.DEVICE": "cpu", "MODEL.CLASSES": ["circle", "square", "triangle"]}
NOT_MIXED = {"MODEL.PRECISION"}  # CPUs emulate half precision, up to a hundred times slower
SMALL_RPN = {"INSIDE_ONLY": False, "HEAD": {"CONV_DIM": 32}, "ANCHOR_GENERATOR": {"SIZES": [16, 40]}}
# Keys that make a part small, or fit it to small images. A row is for NAME, SLOT.NAME or PARENT.SLOT, see ``narrow``.
NARROW = {
    "VGG": {"WIDTH": 0.1},
    "TorchvisionBackbone": {"MODEL": "resnet18", "LAYERS": ["layer3"]},
    "BOTTOM_UP.TorchvisionBackbone": {"LAYERS": ["layer2", "layer3"]},
    "TimmBackbone": {"MODEL": "test_convnext"},
    "FPN": {"OUT_CHANNELS": 32, "BOTTOM_UP": {"WIDTH": 0.1}},
    "GridAnchorGenerator": {"SIZES": [16, 40]},
    "ListAnchorGenerator": {"ANCHORS": [[20, 20], [40, 30], [30, 50]]},
    "RPNHead": {"CONV_DIM": 32},
    "FCBoxHead": {"FC_DIM": 32},
    "ConvFCBoxHead": {"NUM_CONVS": 2, "CONV_DIM": 16, "FC_DIM": 32},
    "Res5BoxHead": {"MODEL": "resnet18"},
    "StandardRoIHeads": {"BOX_HEAD": {"FC_DIM": 32}},  # the matrix skips nested keys; other tests use them
    "CascadeRoIHeads": {"BOX_HEAD": {"FC_DIM": 32}, "BOX_INIT_STD": 1e-4},  # small, or its last stage finds nothing
    "FasterRCNN": {"BACKBONE": {"WIDTH": 0.1}, "RPN": SMALL_RPN, "ROI_HEADS": {"BOX_HEAD": {"FC_DIM": 32}}},
    "ProposalNetwork": {"BACKBONE": {"WIDTH": 0.1}, "RPN": SMALL_RPN},
    **dict.fromkeys(["RandomApply", "RandomChoice", "RandomOrder"], {"TRANSFORMS": [{"NAME": "RandomVerticalFlip"}]}),
    "MODEL": {"PIXEL_STD": [58.0, 58.0, 58.0]},
    "MODEL.RPN": {"INSIDE_ONLY": False, "MIN_SIZE": 4, "POST_NMS_TOP_N_TRAIN": 16, "POST_NMS_TOP_N_TEST": 16},
    "RPN.SAMPLER": {"NUM_SAMPLES": 1024},  # enough to draw some from each level
    "ROI_HEADS.SAMPLER": {"NUM_SAMPLES": 64},
}


class Combination(NamedTuple):
    """The names chosen, {path in the config tree: name}, and the resulting config values, {key: value}."""

    choices: dict
    opts: dict

    @classmethod
    def draw(cls, choose, only=()):
        """Draw a combination. ``only``, {slot: name}, fixes the parts of some slots.

        ``choose(path, names, choices)`` returns one of the names; ``choices`` are the earlier choices, {path: name}.
        """
        combination = cls({}, dict(COMMON))
        for path, slot in SLOTS.items():
            combination._visit(path, slot, choose, dict(only), ())
        return combination

    def _visit(self, path, node, choose, only, inside):
        """Choose a slot's part, and all below a slot or section. ``inside`` are the names of the enclosing parts."""
        # For a slot, choose a part. A section is itself the class, and has no NAME.
        part, name = node, None
        if isinstance(node, (Slot, SlotList)):
            registry = node.registry
            names = [candidate for candidate in registry if candidate not in inside]  # no FPN inside an FPN
            if registry.slot in only and not set(inside) & set(registry):  # not inside a part of the same slot
                names = [only[registry.slot]]
            name = self.choices[path] = choose(path, names, self.choices)
            part, inside = registry.get(name), (*inside, name)
        keys = narrow(path, name, part)
        if name:
            keys = {"NAME": name, **keys}

        # If the default list has the chosen part, keep that list. Otherwise, replace every entry by the chosen part.
        if isinstance(node, SlotList):
            if name not in [entry["NAME"] for entry in node.default]:
                self.opts[path] = [keys] * len(node.default)
            return

        # Choose a value for each key that takes one of a few words.
        for key, spec in config_keys(part).items():
            key_path = f"{path}.{key}"
            if typing.get_origin(spec.annotation) is typing.Literal and key_path not in NOT_MIXED:
                words = list(typing.get_args(spec.annotation))
                keys[key] = self.choices[key_path] = choose(key_path, words, self.choices)
        for key, value in keys.items():
            self.opts[f"{path}.{key}"] = value
        for slot, inner in getattr(part, "slots", {}).items():
            self._visit(f"{path}.{slot}", inner, choose, only, inside)

    def words(self):
        """Return the config values as on a command line: [KEY, VALUE, KEY, VALUE, ...]."""
        return list(itertools.chain(*self.opts.items()))

    def __str__(self):
        return " ".join(str(choice).replace(" ", "_") for choice in self.choices.values())


def narrow(path, name, part):
    """Return the keys that NARROW has for a part, or for a section, which has the name None."""
    slot = path.split(".")[-1]
    parent_and_slot = ".".join(path.split(".")[-2:])
    keys = {}
    for row in (name, f"{slot}.{name}", parent_and_slot):
        keys |= NARROW.get(row, {})
    return {key: value for key, value in keys.items() if key in config_keys(part)}


class Outcome(NamedTuple):
    """A combination's status (ran, refused or failed) and the reason."""

    status: str
    reason: str = ""


def attempt(combination):
    """Build a combination's detector, train a step, detect, and return an Outcome."""
    try:
        torch.manual_seed(0)
        try:
            cfg = load_config(opts=combination.words())
            model = build_model(cfg)
            optimizer, schedule = build_optimizer(cfg, model), build_lr_scheduler(cfg, STEPS)
            build_image_sampler(cfg.DATASETS.IMAGE_SAMPLER, ShapesDataset(num_images=STEPS))(np.random.default_rng(0))
        except UserError as error:
            return Outcome("refused", str(error))
        _train_and_detect(model, optimizer, schedule, len(cfg.MODEL.CLASSES))
    except Exception as error:  # any exception of a part is a failure to report
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("failed", f"{Path(frame.filename).name}:{frame.lineno}: {type(error).__name__}: {error}")
    return Outcome("ran")


def _train_and_detect(model, optimizer, schedule, num_classes):
    check_gradients(model, num_classes)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * schedule(0)
    optimizer.step()
    images, _ = detection_batch(num_classes, device_of(model))
    case = Case(META_ARCHITECTURES, model, "detecting after a step", images=images)
    with torch.no_grad():
        detections = model.eval()(images)
    check_detections(case, detections, SIZES, num_classes)


def swaps(count, seed=0, only=(), imports=(), say=print):
    """Try random combinations, report each, and return their Outcomes.

    Args:
        count: number of combinations; one that is drawn twice is tried twice.
        seed: combination number i depends only on (seed, i).
        only: {slot: name} of parts that every combination has, such as ``{"MATCHER": "MyMatcher"}``.
        imports: modules or .py files that register parts.
        say: function that receives each line of the report.

    Raises:
        UserError: ``only`` names an unknown slot or part.
    """
    begin = time.perf_counter()
    load_config(imports=imports)  # registers the parts
    only = dict(only)
    registries = _find_registries(list(SLOTS.values()))
    for slot, name in only.items():
        if slot not in registries:
            raise UserError(f"no slot of the matrix is called {slot!r}{suggest(slot, registries)}")
        registries[slot].get(name)  # raises the UserError for an unknown part

    # Report each combination as soon as it has been tried.
    tried = []
    for number in range(count):
        rng = random.Random(derive_seed(seed, number))
        combination = Combination.draw(lambda path, names, choices, rng=rng: rng.choice(names), only)
        outcome = attempt(combination)
        tried.append((combination, outcome))
        say(f"{number:4d} {outcome.status:7s} {combination}")
        if outcome.reason:
            say(f"             {outcome.reason}")

    # Report a summary: outcomes of each part, reasons for refusals, failures in full, totals.
    say("\n" + _table_of_parts(tried))
    outcomes = [outcome for _, outcome in tried]
    refusals = Counter(outcome.reason for outcome in outcomes if outcome.status == "refused")
    if refusals:
        say("\n" + tabulate(refusals.most_common(), ["refused because", "times"]))
    for combination, outcome in tried:
        if outcome.status == "failed":
            say(f"\nFAILED: {outcome.reason}\n  {combination.opts}")
    counts = Counter(outcome.status for outcome in outcomes)
    totals = f"{counts['ran']} ran, {counts['refused']} refused, {counts['failed']} failed"
    say(f"\n{count} combinations: {totals}; {time.perf_counter() - begin:.0f} s")
    return outcomes


def _find_registries(nodes):
    """Return {slot: registry} of the slots in ``nodes`` and of all slots below them."""
    found = {}
    while nodes:
        node = nodes.pop()
        parts = [node]
        if isinstance(node, (Slot, SlotList)):
            registry = node.registry
            parts = [] if registry.slot in found else map(registry.get, registry)  # visit a slot's parts once
            found[registry.slot] = registry
        for part in parts:
            nodes += getattr(part, "slots", {}).values()
    return found


def _table_of_parts(tried):
    counts = {}
    for combination, outcome in tried:
        for path, choice in combination.choices.items():
            row = counts.setdefault((path, choice), Counter())
            row[outcome.status] += 1
    rows = [(path, choice, n["ran"], n["refused"], n["failed"]) for (path, choice), n in sorted(counts.items())]
    return tabulate(rows, ["where", "part", "ran", "refused", "failed"])


def parser(prog):
    """Return the command's parser."""
    parser = command_parser(prog, __doc__)
    parser.add_argument("--count", type=whole_number(1), default=100, metavar="N", help="combinations")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="of the random choice")
    help = "part that every combination has, such as MATCHER=MyMatcher; repeatable"
    parser.add_argument("--only", action="append", default=[], metavar="SLOT=NAME", help=help)
    return parser


def run(options):
    """Try combinations; raise a UserError if any fails."""
    only = {}
    for text in options.only:
        slot, _, name = text.partition("=")
        if not (slot and name):
            raise UserError(f"--only {text}: expected SLOT=NAME, such as MATCHER=MyMatcher")
        only[slot] = name
    outcomes = swaps(options.count, options.seed, only, options.imports)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        raise UserError(f"{failed} of {len(outcomes)} combinations failed, see above")


if __name__ == "__main__":
    sys.exit(run_command(sys.modules[__name__], sys.argv[1:], "swap_matrix.py"))
