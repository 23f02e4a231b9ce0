"""Pictures of detections beside ground truth."""

import colorsys

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

SHORT_SIDE = 320  # smaller images are enlarged to this, so that names can be read
HEADING = 22  # height of the strip above the panels


def draw_detections(image, target, detections, classes, score_threshold=0.5):
    """Draw an image twice: with its ground truth on the left, with its detections on the right.

    Boxes are xyxy in the image's pixels. A small image is enlarged to a short side of 320.

    Args:
        image: (3, H, W) uint8, RGB.
        target: dict with "boxes" (M, 4) and "labels" (M,).
        detections: dict with "boxes" (R, 4), "labels" (R,) and "scores" (R,).
        classes: names; label k is ``classes[k - 1]``.
        score_threshold: detections that score less are not drawn.

    Returns:
        (3, H', W') uint8, RGB.
    """
    scale = max(1.0, SHORT_SIDE / min(image.shape[-2:]))
    size = [round(side * scale) for side in image.shape[-2:]]
    if scale > 1:
        image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0].round().byte()

    names = [classes[label - 1] for label in target["labels"].tolist()]
    left = _panel(image, "ground truth", target["boxes"] * scale, target["labels"], names)

    order = detections["scores"].argsort()  # the best are drawn last, on top
    order = order[detections["scores"][order] >= score_threshold]
    boxes, labels, scores = (detections[key][order] for key in ("boxes", "labels", "scores"))
    names = [f"{classes[k - 1]} {score:.2f}" for k, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    right = _panel(image, f"detections, score at least {score_threshold:g}", boxes * scale, labels, names)
    return torch.cat([left, right], dim=2)


def save_picture(picture, path):
    """Write a (3, H, W) uint8 RGB picture to a file, such as a .png."""
    to_pil_image(picture).save(path)


def _panel(image, heading, boxes, labels, names):
    """The image below a strip with a heading, a frame around it, and boxes with names on it, in its own pixels."""
    height, width = image.shape[-2:]
    panel = Image.new("RGB", (width + 2, height + HEADING + 1), "white")
    panel.paste(to_pil_image(image), (1, HEADING))
    draw = ImageDraw.Draw(panel)
    draw.text((4, HEADING // 2), heading, fill="black", font=ImageFont.load_default(14), anchor="lm")
    font = ImageFont.load_default(12)
    boxes = boxes + boxes.new_tensor([1, HEADING, 1, HEADING])
    boxes = boxes.view(-1, 2, 2).sort(dim=1).values.flatten(1)  # PIL refuses a box with x2 < x1
    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
        draw.rectangle(box, outline=_color(label), width=2)
    for (x1, y1, _, _), label, name in zip(boxes.tolist(), labels.tolist(), names, strict=True):
        _, _, right, bottom = draw.textbbox((0, 0), name, font=font)
        x = max(1, min(x1, width - right - 3))
        y = max(HEADING, y1 - bottom - 3)  # above the box, where there is room
        draw.rectangle((x, y, x + right + 3, y + bottom + 3), fill=_color(label))
        draw.text((x + 2, y + 1), name, fill="black", font=font)
    return pil_to_tensor(panel)


def _color(label):
    """A light color of its own for every label: hues a golden section apart, which keeps neighbors distinct."""
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 1.0))
