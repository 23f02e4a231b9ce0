"""From files to batches: data sets, transforms and the loader.

A data set gives records, ``(image (3, H, W) uint8 RGB, target)``. Transforms change them, and a loader yields batches,
``(images, targets)``, in an order that depends only on the seed. Importing this package registers the built-in parts.
"""

from detlite.data.datasets.build import build_dataset, build_train_datasets, concatenate
from detlite.data.datasets.coco import CocoDataset
from detlite.data.datasets.ground_truth import coco_ground_truth
from detlite.data.datasets.pascal_voc import PascalVOCDataset
from detlite.data.datasets.shapes import ShapesDataset
from detlite.data.datasets.tiled import TiledDataset
from detlite.data.datasets.yolo import YoloDataset
from detlite.data.faults import Faults, ImageError
from detlite.data.image_files import read_image, rgb_tensor
from detlite.data.image_sampler import build_image_sampler
from detlite.data.loader import test_loader, training_loader
from detlite.data.records import plain_tensor
from detlite.data.transforms import ResizeShortSide, build_test_transforms, build_transforms, refuse_draws
from detlite.parts import import_modules
from detlite.seeding import seeded

__all__ = [
    "CocoDataset", "Faults", "ImageError", "PascalVOCDataset", "ResizeShortSide", "ShapesDataset", "TiledDataset",
    "YoloDataset", "build_dataset", "build_image_sampler", "build_test_transforms", "build_train_datasets",
    "build_transforms", "coco_ground_truth", "concatenate", "plain_tensor", "read_image", "refuse_draws", "rgb_tensor",
    "seeded", "test_loader", "training_loader",
]  # fmt: skip

import_modules(__name__)
