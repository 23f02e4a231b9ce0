"""From class scores and boxes per region to an image's detections."""

from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes


def select_detections(
    boxes, scores, image_size, *, score_threshold, nms_iou, detections_per_image, return_class_scores=False
):
    """Keep what scores enough, drop what overlaps a better one of its class, keep the best.

    Args:
        boxes: (R, K, 4), a box of each region for each class.
        scores: (R, K).
        image_size: (height, width); boxes are clipped to it.
        score_threshold: scores must be above it.
        nms_iou: overlap with a better one of the class above which a detection is dropped.
        detections_per_image: how many are kept at most.
        return_class_scores: whether all scores of each kept region are wanted, too.

    Returns:
        {"boxes": (S, 4), "scores": (S,), "labels": (S,) int64 from 1}, best first; perhaps "class_scores": (S, K).
    """
    region, column = (scores > score_threshold).nonzero(as_tuple=True)
    boxes = clip_boxes_to_image(boxes[region, column], image_size)
    keep = remove_small_boxes(boxes, min_size=1e-2)
    boxes, region, column = boxes[keep], region[keep], column[keep]
    keep = batched_nms(boxes, scores[region, column], column, nms_iou)[:detections_per_image]
    region, column = region[keep], column[keep]
    detections = {"boxes": boxes[keep], "scores": scores[region, column], "labels": column + 1}
    return detections | {"class_scores": scores[region]} if return_class_scores else detections
