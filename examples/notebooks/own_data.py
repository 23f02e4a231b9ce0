# %% [markdown]
# # Your own data in ten minutes
#
# From a folder of images with annotations to a trained detector, its score and its detections. The folder here is written
# by the first cell; replace `data/shapes` by yours, in COCO's, Pascal VOC's or YOLO's format.

# %%
import json
from pathlib import Path

from PIL import Image

from detlite.data import ShapesDataset

shapes = ShapesDataset(num_images=60, image_size=128)
truth = shapes.coco()
folder = Path("data/shapes")
(folder / "images").mkdir(parents=True, exist_ok=True)
for row in truth["images"]:
    row["file_name"] = f"{row['id']}.png"
    pixels = shapes[row["id"]][0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "images" / row["file_name"])
(folder / "shapes.json").write_text(json.dumps(truth))
print(len(truth["images"]), "images,", len(truth["annotations"]), "objects")

# %% [markdown]
# `detlite init` looks at the data, chooses the image size, anchors and schedule, and explains each choice in the config.

# %%
from detlite.preparation.write_config import new_config

text, notes, _ = new_config(folder, "shapes.yaml")
Path("shapes.yaml").write_text(text)
print(text[:1500], *notes, sep="\n")

# %% [markdown]
# A training. `STEPS` keeps this notebook short; without the override the config trains for as long as it says.

# %%
import detlite
from detlite.config import load_config

STEPS = 40
cfg = load_config("shapes.yaml", ["SOLVER.MAX_ITER", STEPS])
results = detlite.train(cfg)
print("AP after", STEPS, "steps:", results["bbox"]["AP"])

# %% [markdown]
# The trained detector finds objects in files, PIL images, arrays or tensors.

# %%
from detlite import Detector

detector = Detector.from_checkpoint("output/shapes/model_final.pth")
photo = "data/shapes/images/0.png"
found = detector(photo)
for name, score, box in list(zip(found["names"], found["scores"].tolist(), found["boxes"].tolist(), strict=True))[:5]:
    print(f"{name:10} {score:.2f} {[round(number) for number in box]}")

# %% [markdown]
# `OUTPUT_DIR/pictures` has test images with the ground truth next to the detections.

# %%
Image.open(sorted(Path("output/shapes/pictures").glob("*.png"))[0])
