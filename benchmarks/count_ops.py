"""Count operators and waits of a training step and of a detection: python benchmarks/count_ops.py.

On a GPU each operator is one kernel launch or more, and some make the CPU wait for the GPU. Both are counted on the
CPU, with its fast paths switched off, so that the operators are those of a GPU. torchvision's detector with the same
weights is counted for comparison. The counts of one image and of three give the cost of one more image.
"""

import collections
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detlite.config import load_config
from detlite.inspection.speed import Task, make_batch
from detlite.modeling import build_model
from detlite.ops.cpu import has_cpu_kernel
from torchvision_twin import TorchvisionTwin

NARROW = {  # a detector with a counterpart in torchvision
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": 11,
    "MODEL.BACKBONE.WIDTH": 0.0625,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [16, 32],
    "MODEL.RPN.HEAD.CONV_DIM": 32,
    "MODEL.RPN.HEAD.INIT_STD": 0.1,
    "MODEL.RPN.MIN_SIZE": 1e-3,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 50,
    "MODEL.ROI_HEADS.CLASS_INIT_STD": 0.1,
    "MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign",
    "MODEL.ROI_HEADS.POOLER.ALIGNED": False,
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT": 0.0,
}
BATCHES = (1, 3)
# Operators without a kernel: views, and tensors that are not filled.
NO_KERNEL = set(
    "view _unsafe_view expand slice select unsqueeze squeeze permute transpose t detach alias split split_with_sizes "
    "unbind lift_fresh as_strided unfold _reshape_alias diagonal is_same_size sym_size empty empty_like empty_strided "
    "new_empty new_empty_strided set_ resize_ _has_compatible_shallow_copy_type".split()
)
# The size or value of their result is needed on the CPU.
WAITING = {"nonzero", "_local_scalar_dense", "masked_select", "_unique2", "is_nonzero", "equal", "nms"}


class Counter(TorchDispatchMode):
    """Counts the operators that run: ``operators`` and ``waits``, both {name: count}."""

    def __init__(self):
        super().__init__()
        self.operators, self.waits = collections.Counter(), collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count an operator and run it."""
        name = function.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.operators[name] += 1
        wait = wait_of(name, args)
        if wait:
            self.waits[wait] += 1
        return function(*args, **(kwargs or {}))


def wait_of(name, args):
    """Return a name for the wait that an operator causes on a GPU, or None."""
    if name in WAITING:
        return name
    if name == "lift_fresh" and args[0].dim():
        return "a tensor from a list"
    if name == "randperm":
        return "randperm on the CPU"
    if name not in ("index", "index_put", "index_put_"):
        return None

    # A mask becomes indices, unless one number is written to all its elements.
    is_mask = any(index is not None and index.dtype == torch.bool for index in args[1])
    if is_mask and (name == "index" or args[2].numel() > 1):
        return f"{name} by mask"
    if not is_mask and name != "index" and args[2].dim() == 0:
        return "index_put of a number"
    return None


def switch_off_fast_paths():
    """Make all modules use the operators of a GPU."""
    original = has_cpu_kernel  # this module's name is replaced, too
    for module in list(sys.modules.values()):
        if getattr(module, "has_cpu_kernel", None) is original:
            module.has_cpu_kernel = lambda tensor: False


def count(run):
    """Return the result of a function, and the Counter of its operators."""
    with Counter() as counter:
        result = run()
    return result, counter


def count_passes(name, mode, batch):
    """Return {pass: Counter} of one detector."""
    cfg = load_config(opts=[word for pair in NARROW.items() for word in pair])
    torch.manual_seed(0)
    model = build_model(cfg)
    if name == "torchvision":
        model = TorchvisionTwin(model)
    model.train(mode == "training")
    images, targets = make_batch(Task(batch=batch, size=(64, 96)), len(cfg.MODEL.CLASSES))
    if mode == "inference":
        with torch.no_grad():
            return {"forward": count(lambda: model(images))[1]}
    loss, forward = count(lambda: sum(model(images, targets).values()))
    return {"forward": forward, "backward": count(loss.backward)[1]}


def describe(one, more):
    """Return a line on the counters of one image and of BATCHES[1]."""
    extra = BATCHES[1] - BATCHES[0]
    operators = (more.operators.total() - one.operators.total()) / extra
    waits = (more.waits.total() - one.waits.total()) / extra
    line = f"operators {one.operators.total()}, +{operators:.0f} per further image; "
    line += f"waits {one.waits.total()}, +{waits:.1f} per further image"
    if one.waits:
        line += f" (of one image: {dict(one.waits)})"
    return line


def main():
    """Count, and print a line per detector and pass."""
    switch_off_fast_paths()
    for mode in ("training", "inference"):
        for name in ("detlite", "torchvision"):
            one, more = (count_passes(name, mode, batch) for batch in BATCHES)
            for part, counter in one.items():
                print(f"{mode}, {part}, {name}: {describe(counter, more[part])}", flush=True)


if __name__ == "__main__":
    main()
