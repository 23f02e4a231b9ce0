"""The first result of each part is checked, and a failure names the part."""

import copy
import pickle
import re
import sys

import pytest
import torch

from detlite import guard
from detlite.cli import main
from detlite.config import load_config
from detlite.engine.train import train
from detlite.guard import PartError, checking_parts, part_error
from detlite.modeling import build_model
from detlite.registry import BOX_CODERS, MATCHERS, SAMPLERS

TEXT = """import os, sys
import torch
from detlite.registry import {registry}


@{registry}.register()
class Broken({registry}.get("{base}")):
    def {method}(self, *arguments, **options):
        result = super().{method}(*arguments, **options)
        {action}
"""
# {(registry, key, part that the broken one extends, method): [(what it does, what the message says)]}
RESULTS = {
    ("BACKBONES", "MODEL.BACKBONE", "VGG", "forward"): [
        ("return {name: level[..., ::2, ::2] for name, level in result.items()}", r"returned .*conv5.*\(2, 32, 4, 4\)"),
        ("return list(result.values())", "expected a dict of the levels conv5"),
    ],
    ("ANCHOR_GENERATORS", "MODEL.RPN.ANCHOR_GENERATOR", "GridAnchorGenerator", "__call__"): [
        ("return [anchors[1:] for anchors in result]", r"returned float32 \(95, 4\); expected level 0"),
        ("return result[0]", r"expected \(level 0\)"),
    ],
    ("RPN_HEADS", "MODEL.RPN.HEAD", "RPNHead", "forward"): [
        ("return result[1], result[0]", "expected logits of level 0 with 1 or 2 columns"),
        ("return result[0], [level.double() for level in result[1]]", "expected deltas of level 0: float32"),
        ("arguments[0][0].zero_(); return result", "changed argument 1 in place; expected unchanged arguments"),
    ],
    ("MATCHERS", "MODEL.RPN.MATCHER", "MaxIoUMatcher", "__call__"): [
        ("return result[0], result[1] * 5", "returned labels -5, 5; expected labels -1, 0 or 1"),
        ("arguments[1].add_(1); return result", "changed argument 2 in place; expected unchanged"),
        ("return result[0] + 99, result[1]", "expected matches in 0 ... "),
        ("return None", r"returned null; expected \(matches, labels\)"),
        ("return result[0].to('meta'), result[1]", "expected matches on cpu"),
    ],
    ("SAMPLERS", "MODEL.ROI_HEADS.SAMPLER", "BalancedSampler", "__call__"): [
        ("return result[1], result[0]", "expected positive: boxes whose label is 1"),
        ("return result[0].int(), result[1]", r"expected positive: int64 \(any,\)"),
    ],
    ("NMS", "MODEL.RPN.NMS", "GreedyNMS", "__call__"): [
        ("return result[0].flip(0), result[1].flip(0)", "expected scores in descending order"),
    ],
    ("BOX_CODERS", "MODEL.RPN.BOX_CODER", "DeltaBoxCoder", "decode"): [
        ("return result.flip(1)", "expected x1 <= x2 and y1 <= y2"),
    ],
    ("BOX_CODERS", "MODEL.ROI_HEADS.BOX_CODER", "DeltaBoxCoder", "encode"): [
        ("return result[:0]", "expected deltas: float32"),
    ],
    ("BOX_LOSSES", "MODEL.RPN.BOX_LOSS", "SmoothL1Loss", "__call__"): [
        ("return result.sum()", r"returned float32 \(\) .*; expected losses: float32"),
    ],
    ("CLASS_LOSSES", "MODEL.ROI_HEADS.CLASS_LOSS", "CrossEntropyLoss", "__call__"): [
        ("return result.detach()", "returned no gradient; expected losses with a gradient"),
    ],
    ("ROI_POOLERS", "MODEL.ROI_HEADS.POOLER", "RoIAlign", "forward"): [
        ("return result[..., :3]", "expected pooled: float32"),
    ],
    ("BOX_HEADS", "MODEL.ROI_HEADS.BOX_HEAD", "FCBoxHead", "forward"): [
        ("return result[:, :8]", "expected vectors: float32"),
        ("return result.to_sparse()", "returned sparse float32"),
    ],
    ("ROI_HEADS", "MODEL.ROI_HEADS", "StandardRoIHeads", "forward"): [
        ("return result[1]", r"expected \(detections, losses\)"),
        ("return [], {'loss': torch.zeros((), device='meta')}", "returned on meta; expected loss on a device"),
    ],
    ("META_ARCHITECTURES", "MODEL", "FasterRCNN", "forward"): [
        ("return list(result.values())", "expected a dict of losses"),
    ],
    ("DATASETS", "DATASETS.TRAIN.0", "ShapesDataset", "__getitem__"): [
        ("return result[0].float(), result[1]", r"expected image: uint8 \(3, 64, 64\); image \d+"),
        ("return result[0], {'labels': result[1]['labels']}", "expected target: boxes and labels"),
    ],
    ("DATASETS", "DATASETS.TEST", "ShapesDataset", "coco"): [
        ("return {}", r"expected coco\(\): a dict with images, a list of dicts with height, id, width"),
        ("result['annotations'][0].pop('bbox'); return result", "expected .* annotations, a list of dicts with bbox"),
    ],
    ("TRANSFORMS", "TRANSFORMS.TRAIN.0", "RandomHorizontalFlip", "__call__"): [
        ("return result[0]", r"expected \(image, target\); image \d+"),
        ("return result[0].to('meta'), result[1]", "returned on meta; expected image on a device with data"),
        ("arguments[1]['labels'].add_(1000); return result", "changed argument 2 in place; expected unchanged"),
        ("return result[0], {**result[1], 'boxes': torch.Tensor(result[1]['boxes'])}", "tv_tensors.BoundingBoxes"),
    ],
}
BACKBONE = ("BACKBONES", "MODEL.BACKBONE", "VGG", "forward")
MATCHER = ("MATCHERS", "MODEL.RPN.MATCHER", "MaxIoUMatcher", "__call__")
BOX_HEAD = ("BOX_HEADS", "MODEL.ROI_HEADS.BOX_HEAD", "FCBoxHead")
EVALUATOR = ("EVALUATORS", "EVALUATION.EVALUATORS.0", "CocoEvaluator")
EVALUATE = (*EVALUATOR, "evaluate")
CASES = [(*part, *case) for part, cases in RESULTS.items() for case in cases]


@pytest.fixture
def broken(tiny_opts):
    """A function that registers a broken part, and returns the opts of a training with it."""

    def define(registry, key, base, method, action, **changes):
        text = TEXT.format(registry=registry, base=base, method=method, action=action)
        exec(compile(text, "broken.py", "exec"), {"__name__": "broken"})
        changes |= {"SOLVER.MAX_ITER": 1, "EVALUATION.PICTURES": 0}
        if key == "DATASETS.TRAIN.0":
            changes["DATASETS.TRAIN"] = [{"NAME": "Broken", "IMAGE_SIZE": 64, "NUM_IMAGES": 20}]
        elif key == "DATASETS.TEST":
            changes[key] = {"NAME": "Broken", "IMAGE_SIZE": 64, "NUM_IMAGES": 5}
        elif key == "TRANSFORMS.TRAIN.0":
            changes["TRANSFORMS.TRAIN"] = [{"NAME": "Broken"}]
        else:
            changes[f"{key}.NAME"] = "Broken"
        return list(map(str, tiny_opts(**changes)))

    return define


@pytest.mark.parametrize(("registry", "key", "base", "method", "action", "message"), CASES)
def test_a_first_result_that_breaks_the_contract_names_the_part(registry, key, base, method, action, message, broken):
    cfg = load_config(opts=broken(registry, key, base, method, action))
    with pytest.raises(PartError, match=message) as caught:
        train(cfg)
    assert str(caught.value).startswith(f"{key}: Broken ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("part", "action", "message"),
    [
        (EVALUATE, "return None", "returned null; expected evaluate(): a dict of dicts"),
        ((*EVALUATOR, "summary"), "return 7", "returned 7; expected summary(): text"),
        ((*EVALUATOR, "process"), "raise KeyError('x')", "raised KeyError: 'x'"),
        ((*EVALUATOR, "process"), "arguments[1][0]['labels'].add_(1)", "raised RuntimeError: Inplace update to"),
        (MATCHER, "raise ValueError", "raised ValueError"),
        (MATCHER, "sys.exit(3)", "called sys.exit(3)"),
        (MATCHER, "raise GeneratorExit", "raised GeneratorExit"),
        (BACKBONE, "torch.zeros(2) @ result['conv5']", "raised RuntimeError: Expected size"),
        (("LR_SCHEDULERS", "SOLVER.LR_SCHEDULER", "MultiStepLR", "__call__"), "raise StopIteration", "raised StopIter"),
        ((*BOX_HEAD, "__init__"), "{}['a']", "raised KeyError: 'a'"),
    ],
)
def test_an_error_in_a_part_is_one_message_that_names_it(part, action, message, broken, capsys):
    assert main(["train", *broken(*part, action)]) == 1
    printed = capsys.readouterr()
    assert f"error: {part[1]}: Broken {message}" in printed.err
    assert "Traceback" not in printed.out + printed.err


def test_the_traceback_of_an_error_in_a_part_is_in_the_log_and_shown_with_debug(broken, capsys, tmp_path):
    opts = broken(*MATCHER, "1 / 0")
    assert main(["train", *opts]) == 1
    assert "(broken.py:10; --debug shows more)" in capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in (tmp_path / "output" / "log.txt").read_text()
    with pytest.raises(PartError) as caught:
        main(["train", "--debug", *opts])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("action", ["raise KeyError('x')", "sys.exit()", "raise BaseException('x')"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_data_set_names_it_and_the_image_in_every_worker(action, workers, broken, capsys):
    opts = broken(
        "DATASETS", "DATASETS.TRAIN.0", "ShapesDataset", "__getitem__", action, **{"DATASETS.NUM_WORKERS": workers}
    )
    assert main(["train", *opts]) == 1
    what = r"(raised (KeyError: 'x'|BaseException: x)|called sys.exit\(\))"
    expected = rf"error: DATASETS.TRAIN.0: Broken {what} \(broken.py:10.*image \d+"
    assert re.search(expected, capsys.readouterr().err)


def test_messages_of_user_errors_in_parts_and_ctrl_c_pass(broken, capsys):
    action = "from detlite.errors import UserError; raise UserError('the pump is off')"
    assert main(["train", *broken(*MATCHER, action)]) == 1
    assert capsys.readouterr().err.strip() == "error: the pump is off"
    assert main(["train", *broken(*MATCHER, "raise KeyboardInterrupt")]) == 130


def test_sigterm_while_a_part_is_called_is_no_fault_of_the_part(broken):
    action = "os.kill(os.getpid(), 15); return result"
    opts = broken(*EVALUATE, action)
    with pytest.raises(SystemExit) as caught:
        main(["train", *opts])
    assert caught.value.code == 143


def test_an_error_of_a_function_that_receives_a_part_is_not_the_parts():
    def use(matcher):
        return {}["x"]

    with pytest.raises(KeyError) as caught:
        use(MATCHERS.build({"NAME": "MaxIoUMatcher"}))
    assert part_error(caught.value) is None


def test_only_first_results_are_checked():
    class Second:
        calls = 0

        def __call__(self, boxes, gt_boxes):
            self.calls += 1
            labels = torch.full((len(boxes),), 5 if self.calls == 2 else 0)
            return torch.zeros_like(labels), labels

    MATCHERS.register(Second)
    matcher = MATCHERS.build({"NAME": "Second"})
    boxes = torch.ones(3, 4)
    with checking_parts():
        matcher(boxes, boxes)
        matcher(boxes, boxes)
    assert sys.getprofile() is None


def test_methods_for_whole_batches_are_checked():
    class Batches(MATCHERS.get("MaxIoUMatcher")):
        def match_batch(self, *arguments):
            matches, labels = super().match_batch(*arguments)
            return matches[:, 1:], labels[:, 1:]

    class Pairs(SAMPLERS.get("BalancedSampler")):
        def sample_batch(self, labels, generators):
            return super().sample_batch(labels, generators)[0]

    MATCHERS.register(Batches)
    SAMPLERS.register(Pairs)
    boxes, masks = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(PartError, match=r"MATCHER: Batches returned .*; expected matches: int64 \(2, 3\)"):
        with checking_parts():
            MATCHERS.build({"NAME": "Batches"}).match_batch(boxes, boxes, masks, masks)
    with pytest.raises(PartError, match=r"SAMPLER: Pairs returned .*; expected \(image 0, image 1, image 2\)"):
        with checking_parts():
            SAMPLERS.build({"NAME": "Pairs"}).sample_batch([torch.zeros(5, dtype=torch.int64)] * 3, [None] * 3)


def test_a_later_error_is_replaced_by_the_fault_that_caused_it():
    class Short(BOX_CODERS.get("DeltaBoxCoder")):
        def encode(self, boxes, gt_boxes):
            return super().encode(boxes, gt_boxes)[1:]

    BOX_CODERS.register(Short)
    coder, boxes = BOX_CODERS.build({"NAME": "Short"}), torch.tensor([[0.0, 0, 4, 4], [1, 1, 9, 9]])
    with pytest.raises(PartError, match="BOX_CODER: Short returned float32") as caught, checking_parts():
        torch.zeros(2, 4) @ coder.encode(boxes, boxes)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_running_profiler_is_left_alone():
    events = []

    def profile(frame, event, argument):
        events.append(event)

    sys.setprofile(profile)
    try:
        with checking_parts():
            tuple(map(str, range(3)))
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)


def test_a_built_detector_keeps_its_parameters_and_copies_keep_the_names(tiny_opts):
    model = build_model(load_config(opts=tiny_opts()))
    assert not any("origin" in name for name in model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert guard._origin(other.rpn.matcher).where == "MODEL.RPN.MATCHER: MaxIoUMatcher"
        assert guard._origin(other.backbone).where == "MODEL.BACKBONE: VGG"
