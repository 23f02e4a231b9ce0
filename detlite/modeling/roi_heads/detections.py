"""From class scores and boxes per region to an image's detections."""

from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes


def select_detections(boxes, scores, image_size, *, score_threshold, nms_iou, detections_per_image):
    """Keep what scores enough, drop what overlaps a better one of its class, keep the best.

    Args:
        boxes: (R, K, 4), a box of each region for each class.
        scores: (R, K).
        image_size: (height, width); boxes are clipped to it.
        score_threshold: scores must be above it.
        nms_iou: overlap with a better one of the class above which a detection is dropped.
        detections_per_image: how many are kept at most.

    Returns:
        {"boxes": (S, 4), "scores": (S,), "labels": (S,) int64 from 1}, best first.
    """
    region, column = (scores > score_threshold).nonzero(as_tuple=True)
    boxes, scores, labels = clip_boxes_to_image(boxes[region, column], image_size), scores[region, column], column + 1
    keep = remove_small_boxes(boxes, min_size=1e-2)
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    keep = batched_nms(boxes, scores, labels, nms_iou)[:detections_per_image]
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
