# %% [markdown]
# # Faster R-CNN, step by step
#
# One image's way through the detector of the quick start, drawn at each stage.

# %%
import torch
from PIL import Image

from detlite.config import load_config
from detlite.data import build_dataset, plain_tensor
from detlite.inspection.visualize import visualize
from detlite.modeling import build_model

cfg = load_config("detlite:quickstart", ["MODEL.CLASSES", ["circle", "square", "triangle"], "MODEL.DEVICE", "cpu"])
torch.manual_seed(0)
model = build_model(cfg)
image, target = build_dataset(cfg.DATASETS.TRAIN[0])[0]
print(image.shape, target["boxes"].shape, target["labels"])

# %% [markdown]
# **The input.** The model normalizes the image, and pads a batch of images to one size.

# %%
Image.open(visualize(cfg, "inputs", indices=[0])[0])

# %% [markdown]
# **The backbone** turns (1, 3, H, W) pixels into (1, C, H / 16, W / 16) features.

# %%
batch = model.preprocess([plain_tensor(image)])
features = model.backbone(batch)
print({level: tuple(values.shape) for level, values in features.items()})

# %% [markdown]
# **Anchors.** Each cell of the features has boxes of several sizes and shapes. The matcher labels them: positive if they
# overlap an object enough, negative if they overlap none.

# %%
Image.open(visualize(cfg, "anchors", indices=[0])[0])

# %% [markdown]
# **The sampler** chooses the anchors that train the RPN, and later the regions that train the RoI heads.

# %%
Image.open(visualize(cfg, "matches", indices=[0])[0])

# %% [markdown]
# **Proposals.** The RPN scores the anchors and moves them; NMS drops boxes that overlap a better one. A few
# steps of training, so that the proposals are not random:

# %%
import detlite

small = ["SOLVER.MAX_ITER", 40, "DATASETS.TEST.NUM_IMAGES", 20]
cfg = load_config("detlite:quickstart", small)
detlite.train(cfg)
Image.open(visualize(cfg, "proposals", indices=[0], weights="output/quickstart/model_final.pth")[0])

# %% [markdown]
# **Four losses** train both stages: class and box losses of the RPN and of the RoI heads.

# %%
losses = model([plain_tensor(image)], [{key: plain_tensor(target[key]) for key in ("boxes", "labels")}])
print({name: round(loss.item(), 3) for name, loss in losses.items()})
