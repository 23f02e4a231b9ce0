"""From files to batches: data sets, transforms and the loader.

A data set gives records, ``(image (3, H, W) uint8 RGB, target)``; transforms take and give such a pair; the loader
draws records in an order that depends on the seed alone and hands out ``(images, targets)``, two lists. Importing this
package registers the built-in parts.
"""

from detlite.data.annotated_images import coco_ground_truth
from detlite.data.coco import CocoDataset
from detlite.data.faults import Faults, ImageError
from detlite.data.folders import find_data
from detlite.data.images import read_header, read_image, rgb_tensor
from detlite.data.inspection import inspect_images
from detlite.data.loader import (
    TrainingBatchSampler,
    build_dataset,
    build_train_datasets,
    concatenate,
    test_loader,
    training_loader,
)
from detlite.data.pascal_voc import PascalVOCDataset
from detlite.data.samples import plain_tensor
from detlite.data.shapes import ShapesDataset
from detlite.data.transforms import Compose, RandomHorizontalFlip, ResizeShortSide, build_transforms
from detlite.data.yolo import YoloDataset
from detlite.registration import import_modules
from detlite.seeding import seeded

__all__ = [
    "CocoDataset",
    "Compose",
    "Faults",
    "ImageError",
    "PascalVOCDataset",
    "RandomHorizontalFlip",
    "ResizeShortSide",
    "ShapesDataset",
    "TrainingBatchSampler",
    "YoloDataset",
    "build_dataset",
    "build_train_datasets",
    "build_transforms",
    "coco_ground_truth",
    "plain_tensor",
    "concatenate",
    "find_data",
    "inspect_images",
    "read_header",
    "read_image",
    "rgb_tensor",
    "seeded",
    "test_loader",
    "training_loader",
]

import_modules(__name__)
