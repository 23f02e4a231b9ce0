"""A custom training loop, as for torchvision's detectors: python examples/own_training_loop.py."""

import sys

import torch

from detlite.config import load_config
from detlite.data import build_dataset, plain_tensor
from detlite.modeling import build_model

# detlite.train would take the class names from the data set. The command line's KEY VALUE pairs override all others.
cfg = load_config("detlite:quickstart", ["MODEL.CLASSES", ["circle", "square", "triangle"], *sys.argv[1:]])
model = build_model(cfg).train()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
dataset = build_dataset(cfg.DATASETS.TRAIN[0])
device = next(model.parameters()).device

for step in range(cfg.SOLVER.MAX_ITER):
    batch = [dataset[(step * 4 + n) % len(dataset)] for n in range(4)]
    images = [plain_tensor(image).to(device) for image, _ in batch]  # uint8 0-255, or float 0-1
    targets = [{key: plain_tensor(target[key]).to(device) for key in ("boxes", "labels")} for _, target in batch]
    losses = model(images, targets)  # a dict, as from torchvision's detectors
    loss = sum(losses.values())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
    optimizer.step()
    if step % 20 == 0:
        print(step, {name: round(value.item(), 3) for name, value in losses.items()})

model.eval()
with torch.inference_mode():
    (found,) = model([plain_tensor(dataset[0][0]).to(device)])
print({name: value[:3].tolist() for name, value in found.items()})
