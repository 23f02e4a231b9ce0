"""Parts of users that break their contract: one subclass of a built-in part per case."""

from pathlib import Path

from inputs import small
from verdict import Case

# (slot's registry, key of the slot, part that the broken one extends, method that breaks)
PARTS = [
    ("BACKBONES", "MODEL.BACKBONE", "VGG", "forward"),
    ("ANCHOR_GENERATORS", "MODEL.RPN.ANCHOR_GENERATOR", "GridAnchorGenerator", "__call__"),
    ("RPN_HEADS", "MODEL.RPN.HEAD", "RPNHead", "forward"),
    ("MATCHERS", "MODEL.RPN.MATCHER", "MaxIoUMatcher", "__call__"),
    ("MATCHERS", "MODEL.ROI_HEADS.MATCHER", "MaxIoUMatcher", "__call__"),
    ("SAMPLERS", "MODEL.RPN.SAMPLER", "BalancedSampler", "__call__"),
    ("SAMPLERS", "MODEL.ROI_HEADS.SAMPLER", "BalancedSampler", "__call__"),
    ("BOX_CODERS", "MODEL.RPN.BOX_CODER", "DeltaBoxCoder", "encode"),
    ("BOX_CODERS", "MODEL.ROI_HEADS.BOX_CODER", "DeltaBoxCoder", "decode"),
    ("BOX_LOSSES", "MODEL.RPN.BOX_LOSS", "SmoothL1Loss", "__call__"),
    ("CLASS_LOSSES", "MODEL.ROI_HEADS.CLASS_LOSS", "CrossEntropyLoss", "__call__"),
    ("ROI_POOLERS", "MODEL.ROI_HEADS.POOLER", "RoIAlign", "forward"),
    ("BOX_HEADS", "MODEL.ROI_HEADS.BOX_HEAD", "FCBoxHead", "forward"),
    ("ROI_HEADS", "MODEL.ROI_HEADS", "StandardRoIHeads", "forward"),
    ("META_ARCHITECTURES", "MODEL", "FasterRCNN", "forward"),
    ("DATASETS", "DATASETS.TRAIN.0", "ShapesDataset", "__getitem__"),
    ("DATASETS", "DATASETS.TEST", "ShapesDataset", "coco"),
    ("TRANSFORMS", "TRANSFORMS.TRAIN.0", "RandomHorizontalFlip", "__call__"),
    ("EVALUATORS", "EVALUATION.EVALUATORS.0", "CocoEvaluator", "evaluate"),
    ("EVALUATORS", "EVALUATION.EVALUATORS.0", "CocoEvaluator", "process"),
    ("OPTIMIZERS", "SOLVER.OPTIMIZER", "SGD", "step"),
    ("LR_SCHEDULERS", "SOLVER.LR_SCHEDULER", "MultiStepLR", "__call__"),
]
# What the method does with the arguments and the right result.
ACTIONS = [
    "return None", "return 0", "return ()", "return result, result", "return [result]", "return {}", "return 'text'",
    "return self", "return 10**400", "return each(result, lambda t: t[:1])", "return each(result, lambda t: t[:0])",
    "return each(result, lambda t: t[None])", "return each(result, lambda t: t.double())",
    "return each(result, torch.t)", "return each(result, lambda t: t.to(torch.int32))",
    "return each(result, lambda t: t.to('meta'))", "return each(result, lambda t: t.bool())",
    "return each(result, lambda t: t * float('nan'))", "return each(result, lambda t: t * 0 + 5)",
    "return each(result, lambda t: t * 1e30)", "return each(result, lambda t: -t)",
    "return each(result, lambda t: t.detach())", "return each(result, lambda t: t.to_sparse())",
    "return each(result, lambda t: t.tolist())", "return each(result, lambda t: t.detach().numpy())",
    "each(arguments, lambda t: t.zero_()); return result", "each(arguments, lambda t: t.add_(1000)); return result",
    "each(arguments, lambda t: t.resize_(0)); return result", "sys.exit()", "sys.exit(0)", "sys.exit(3)",
    "sys.exit('bye')", "raise KeyError('x')", "raise ValueError", "raise RuntimeError('a\\nerror: forged\\x1b[31m')",
    "raise StopIteration", "raise MemoryError", "raise GeneratorExit", "raise OSError(28, 'No space left')",
    "raise KeyboardInterrupt", "raise BaseException('x')", "raise ImportError('x')", "raise AssertionError",
    "raise UnicodeDecodeError('a', b'', 0, 1, 'x')", "1 / 0", "recurse()", "os.kill(os.getpid(), 15); return result",
    "print('\\udcff'); return result", "torch.manual_seed(0); return result",
    "warnings.warn('careless'); return result", "logging.shutdown(); return result",
]  # fmt: skip
TEXT = """import logging, os, sys, warnings
import torch
from detlite.registry import {registry}


def each(value, change):
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {{key: each(item, change) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return type(value)(each(item, change) for item in value)
    return value


def recurse():
    recurse()


@{registry}.register()
class Broken({registry}.get("{base}")):
    def {method}(self, *arguments, **options):
        result = super().{method}(*arguments, **options)
        {action}
"""


def make(good, draw):
    """Return a case that trains or checks with a broken part."""
    registry, key, base, method = draw.choice(PARTS)
    action = draw.choice(ACTIONS)
    Path("broken.py").write_text(TEXT.format(registry=registry, base=base, method=method, action=action))
    words = ["SOLVER.MAX_ITER", "1", "DATASETS.NUM_WORKERS", draw.choice(["0", "0", "0", "2"]), f"{key}.NAME", "Broken"]
    if registry == "DATASETS":
        words += [f"{key}.NUM_IMAGES", "4"]  # by default 1,000 images, which take longer than a case may
    command = [draw.choice(["train", "train", "check"]), *small(good), "--import", "./broken.py", *words]
    return Case(f"part: {key}.{method}: {action}", command)
