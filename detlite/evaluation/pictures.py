"""Pictures of detections beside ground truth."""

from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from detlite.evaluation.panel import Panel, colors_of, sheet


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
    left = Panel(image, "ground truth")
    names = [classes[label - 1] for label in target["labels"].tolist()]
    left.boxes(target["boxes"], colors_of(target["labels"]), names)
    right = Panel(image, f"detections, score at least {score_threshold:g}")
    draw_on(right, detections, classes, score_threshold)
    return pil_to_tensor(sheet([left, right]))


def draw_on(panel, detections, classes, score_threshold=0.0):
    """Draw detections that score enough on a panel, the best on top, with name and score; see above."""
    order = detections["scores"].argsort()
    order = order[detections["scores"][order] >= score_threshold]
    boxes, labels, scores = (detections[key][order] for key in ("boxes", "labels", "scores"))
    names = [f"{classes[k - 1]} {score:.2f}" for k, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    panel.boxes(boxes, colors_of(labels), names)


def save_picture(picture, path):
    """Write a (3, H, W) uint8 RGB picture to a file, such as a .png."""
    to_pil_image(picture).save(path)
