# %% [markdown]
# # Write a matcher
#
# A matcher decides which boxes a detector learns to see as objects. A part is a class in a file of yours, named in a config.

# %%
from pathlib import Path

SOURCE = '''
import torch
from torchvision.ops import box_iou

from detlite.registry import MATCHERS


@MATCHERS.register()
class TopIoUMatcher:
    """For each object, label the k boxes with the highest IoU as positive.

    Args:
        k: boxes per object.
    """

    def __init__(self, *, k: int = 9):
        self.k = k

    def __call__(self, boxes, gt_boxes):
        labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        if len(gt_boxes) == 0 or len(boxes) == 0:
            return torch.zeros_like(labels), labels
        iou = box_iou(gt_boxes, boxes)
        labels[iou.topk(min(self.k, len(boxes)), dim=1).indices.flatten()] = 1
        return iou.argmax(dim=0), labels
'''
Path("my_parts.py").write_text(SOURCE)
Path("my.yaml").write_text(
    "_BASE_: detlite:quickstart\nIMPORTS: [./my_parts.py]\nMODEL: {RPN: {MATCHER: {NAME: TopIoUMatcher, K: 5}}}\n"
)

# %% [markdown]
# The signature is the schema: `K` is an integer, and a misspelled key is refused with the nearest right one.

# %%
from detlite.config import load_config
from detlite.errors import UserError

cfg = load_config("my.yaml")
print(cfg.MODEL.RPN.MATCHER)
try:
    load_config("my.yaml", ["MODEL.RPN.MATCHER.KK", 3])
except UserError as error:
    print(error)

# %% [markdown]
# A check tests the contract of the slot: shapes, types, no objects, no boxes.

# %%
from detlite.registry import MATCHERS
from detlite.testing import check_matcher

check_matcher(MATCHERS.get("TopIoUMatcher")(k=3))

# %% [markdown]
# A picture shows the anchors that it matches. Then compare it with the default, on the same data, steps and seed. `STEPS`
# keeps this notebook short: a fair comparison needs the whole schedule and several seeds.

# %%
from PIL import Image

from detlite.inspection.visualize import visualize

Image.open(visualize(cfg, "anchors", indices=[0])[0])

# %%
import detlite

STEPS = 20
for name in ("detlite:quickstart", "my.yaml"):
    small = ["SOLVER.MAX_ITER", STEPS, "DATASETS.TEST.NUM_IMAGES", 20, "OUTPUT_DIR", f"output/{Path(name).stem}"]
    results = detlite.train(load_config(name, small))
    print(name, results["bbox"]["AP"])
