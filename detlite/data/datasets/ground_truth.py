"""Ground truth as a COCO dict."""

import numpy as np


def coco_ground_truth(
    classes: list[str], category_ids: list[int], image_ids: list, file_names: list[str], sizes: np.ndarray,
    box_image_ids: np.ndarray, boxes: np.ndarray, labels: np.ndarray, areas: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """Build a COCO dict from arrays, with all keys that pycocotools needs.

    Args:
        classes, category_ids: K names and their COCO ids.
        image_ids, file_names, sizes: of N images; sizes is an (N, 2) int array of (height, width).
        box_image_ids: (B,) array, the id of each box's image.
        boxes, labels: (B, 4) array of (x, y, width, height), and (B,) int array, 1 ... K.
        areas: (B,) array; by default the boxes' areas.
        crowd: (B,) bool array of regions to ignore; by default none.

    Returns:
        dict of the lists "images", "annotations" and "categories". Annotations are numbered from 1, because pycocotools
        counts annotation 0 as missed.
    """
    areas = box_areas(boxes) if areas is None else areas
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    heights, widths = np.transpose(sizes).tolist()
    images = {"id": np.asarray(image_ids).tolist(), "file_name": file_names, "height": heights, "width": widths}
    annotations = {
        "image_id": box_image_ids.tolist(),
        "category_id": np.array(category_ids)[labels - 1].tolist(),
        "bbox": boxes.tolist(),
        "area": areas.tolist(),
        "iscrowd": crowd.astype(int).tolist(),
        "id": range(1, len(boxes) + 1),
    }
    categories = {"id": category_ids, "name": classes}
    return {"images": _rows(images), "annotations": _rows(annotations), "categories": _rows(categories)}


def _rows(columns):
    """Turn {key: values} into a list of dicts."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def box_areas(boxes):
    """Return the areas (B,) of boxes (B, 4)."""
    with np.errstate(all="ignore"):  # boxes that are not finite are reported elsewhere
        return boxes[:, 2] * boxes[:, 3]
