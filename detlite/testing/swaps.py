"""The swap matrix: combinations of parts, each built from a config, trained a step, and made to detect.

The choices are read from the config tree and the registries: every slot of the model and of the solver with every part
registered for it, and every key that is one of a few words, such as MODEL.ROI_HEADS.BOX_OUTPUTS. A combination that
does not fit together must be refused as it is built, by a UserError; whatever else goes wrong is a fault.
"""

import random
import time
import traceback
import typing
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate

from detlite.config import load_config
from detlite.config.defaults import Root, Solver
from detlite.errors import UserError, suggest
from detlite.modeling import build_model
from detlite.parts import Slot, SlotList
from detlite.registry import META_ARCHITECTURES
from detlite.seeding import derive_seed
from detlite.signature import config_keys
from detlite.solver import build_lr_scheduler, build_optimizer
from detlite.testing.contract import Case
from detlite.testing.detectors import check_detections, check_gradients, detection_batch
from detlite.testing.networks import device_of

PLACES = {"MODEL": Root.slots["MODEL"]} | {f"SOLVER.{name}": place for name, place in Solver.slots.items()}
STEPS = 10  # of the run whose first step is taken
COMMON = {"MODEL.DEVICE": "cpu", "MODEL.CLASSES": ["circle", "square", "triangle"]}
NOT_MIXED = {"MODEL.PRECISION"}  # CPUs emulate half precision, up to a hundred times slower
SMALL_RPN = {"INSIDE_ONLY": False, "HEAD": {"CONV_DIM": 32}, "ANCHOR_GENERATOR": {"SIZES": [16, 40]}}
# What makes a part small, or fits it to small images, by its name, by its name in one slot, or by its place.
NARROW = {
    "VGG": {"WIDTH": 0.1},
    "TorchvisionBackbone": {"MODEL": "resnet18", "LAYERS": ["layer3"]},
    "BOTTOM_UP.TorchvisionBackbone": {"LAYERS": ["layer2", "layer3"]},
    "FPN": {"OUT_CHANNELS": 16, "BOTTOM_UP": {"WIDTH": 0.1}},
    "GridAnchorGenerator": {"SIZES": [16, 40]},
    "ListAnchorGenerator": {"ANCHORS": [[20, 20], [40, 30], [30, 50]]},
    "RPNHead": {"CONV_DIM": 32},
    "FCBoxHead": {"FC_DIM": 32},
    "ConvFCBoxHead": {"NUM_CONVS": 2, "CONV_DIM": 16, "FC_DIM": 32},
    "Res5BoxHead": {"MODEL": "resnet18"},
    "StandardRoIHeads": {"BOX_HEAD": {"FC_DIM": 32}},  # nested ones are for a part that is built alone
    "CascadeRoIHeads": {"BOX_HEAD": {"FC_DIM": 32}, "BOX_INIT_STD": 1e-4},  # its last stage finds objects, too
    "FasterRCNN": {"BACKBONE": {"WIDTH": 0.1}, "RPN": SMALL_RPN, "ROI_HEADS": {"BOX_HEAD": {"FC_DIM": 32}}},
    "ProposalNetwork": {"BACKBONE": {"WIDTH": 0.1}, "RPN": SMALL_RPN},
    "MODEL": {"PIXEL_STD": [58.0, 58.0, 58.0]},
    "MODEL.RPN": {"INSIDE_ONLY": False, "MIN_SIZE": 4, "POST_NMS_TOP_N_TRAIN": 16, "POST_NMS_TOP_N_TEST": 16},
    "RPN.SAMPLER": {"NUM_SAMPLES": 1024},  # some of each level
    "ROI_HEADS.SAMPLER": {"NUM_SAMPLES": 64},
}


class Combination(NamedTuple):
    """What was chosen at each path of the config tree, and the config that it makes."""

    choices: dict
    opts: dict

    @classmethod
    def draw(cls, choose, only=()):
        """One combination.

        Args:
            choose: (path, what there is, what was chosen so far, by path) -> one of what there is.
            only: {slot: name}: parts that are not chosen but given, wherever their slot is.
        """
        combination = cls({}, dict(COMMON))
        for path, place in PLACES.items():
            combination._visit(path, place, choose, dict(only), ())
        return combination

    def _visit(self, path, place, choose, only, inside):
        part, name = place, None
        if isinstance(place, (Slot, SlotList)):
            registry = place.registry
            nested = bool(set(inside) & set(registry))
            names = [name for name in registry if name not in inside]  # no FPN upon an FPN
            if registry.slot in only and not nested:
                names = [only[registry.slot]]
            name = self.choices[path] = choose(path, names, self.choices)
            part = registry.get(name)
        keys = narrow(path, name, part)
        if isinstance(place, SlotList):
            if name not in [entry["NAME"] for entry in place.default]:
                self.opts[path] = [{"NAME": name, **keys}] * len(place.default)
            return
        keys = {"NAME": name, **keys} if name else keys
        for key, spec in config_keys(part).items():
            if typing.get_origin(spec.annotation) is typing.Literal and f"{path}.{key}" not in NOT_MIXED:
                words = list(typing.get_args(spec.annotation))
                keys[key] = self.choices[f"{path}.{key}"] = choose(f"{path}.{key}", words, self.choices)
        self.opts.update({f"{path}.{key}": value for key, value in keys.items()})
        for slot, inner in getattr(part, "slots", {}).items():
            self._visit(f"{path}.{slot}", inner, choose, only, (*inside, name))

    def words(self):
        """The combination as KEY VALUE pairs."""
        return [word for pair in self.opts.items() for word in pair]

    def __str__(self):
        return " ".join(str(choice).replace(" ", "_") for choice in self.choices.values())


def narrow(path, name, part):
    """The keys of a part, or of a section without a name, that NARROW has for it."""
    parent, _, slot = path.rpartition(".")
    place = f"{parent.rpartition('.')[2]}.{slot}".lstrip(".")
    rows = [NARROW.get(row, {}) for row in (name, f"{slot}.{name}", place)]
    return {key: value for row in rows for key, value in row.items() if key in config_keys(part)}


class Outcome(NamedTuple):
    """What became of a combination.

    Attributes:
        status: ran, refused or failed.
        reason: of a refusal or failure.
    """

    status: str
    reason: str = ""


def attempt(combination):
    """Build a combination's detector, train it a step, and let it detect: an :class:`Outcome`."""
    try:
        torch.manual_seed(0)
        try:
            cfg = load_config(opts=combination.words())
            model = build_model(cfg)
            optimizer, schedule = build_optimizer(cfg, model), build_lr_scheduler(cfg, STEPS)
        except UserError as error:
            return Outcome("refused", str(error))
        _train_and_detect(model, optimizer, schedule, len(cfg.MODEL.CLASSES))
    except Exception as error:  # whatever it is, it is what is looked for
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
    check_detections(case, detections, [tuple(image.shape[-2:]) for image in images], num_classes)


def swaps(count, seed=0, only=(), imports=(), say=print):
    """Try random combinations and tell what ran, what was refused and why, and what failed.

    Args:
        count: how many combinations; one that was drawn before is tried again.
        seed: combination i is a function of (seed, i).
        only: {slot: name}, such as ``{"MATCHER": "MyMatcher"}``, that every combination has.
        imports: modules or .py files that register parts.
        say: is handed the lines.

    Returns:
        the outcomes, a list.

    Raises:
        UserError: ``only`` names a slot or part that there is not.
    """
    begin = time.perf_counter()
    load_config(imports=imports)
    only = dict(only)
    _check_only(only)
    tried = []
    for number in range(count):
        chance = random.Random(derive_seed(seed, number))
        combination = Combination.draw(lambda path, names, chosen, chance=chance: chance.choice(names), only)
        outcome = attempt(combination)
        tried.append((combination, outcome))
        say(f"{number:4d} {outcome.status:7s} {combination}")
        if outcome.reason:
            say(f"             {outcome.reason}")
    say("\n" + _table_of_parts(tried))
    refusals = Counter(outcome.reason for _, outcome in tried if outcome.status == "refused")
    if refusals:
        say("\n" + tabulate([(n, reason) for reason, n in refusals.most_common()], ["refused", "because"]))
    for combination, outcome in tried:
        if outcome.status == "failed":
            say(f"\nFAILED: {outcome.reason}\n  {combination.opts}")
    counts = Counter(outcome.status for _, outcome in tried)
    totals = ", ".join(f"{counts[status]} {status}" for status in ("ran", "refused", "failed"))
    say(f"\n{count} combinations: {totals}; {time.perf_counter() - begin:.0f} s")
    return [outcome for _, outcome in tried]


def _check_only(only):
    registries = {registry.slot: registry for registry in _registries(list(PLACES.values()))}
    for slot, name in only.items():
        if slot not in registries:
            raise UserError(f"no slot of the matrix is called {slot!r}{suggest(slot, registries)}")
        registries[slot].get(name)


def _registries(places):
    """The registries of places, and of the slots of all their parts."""
    found = []
    while places:
        place = places.pop()
        parts = [place]
        if isinstance(place, (Slot, SlotList)):
            parts = [] if place.registry in found else map(place.registry.get, place.registry)
            found.append(place.registry)
        places += [slot for part in parts for slot in getattr(part, "slots", {}).values()]
    return found


def _table_of_parts(tried):
    counts = {}
    for combination, outcome in tried:
        for path, choice in combination.choices.items():
            row = counts.setdefault((path, choice), Counter())
            row[outcome.status] += 1
    rows = [(path, choice, n["ran"], n["refused"], n["failed"]) for (path, choice), n in sorted(counts.items())]
    return tabulate(rows, ["where", "part", "ran", "refused", "failed"])
