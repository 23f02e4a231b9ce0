"""Detection in images of any kind with trained weights: ``detlite.Detector``."""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.agreement import build_trained
from detlite.checkpoint import read_weights
from detlite.config import load_config
from detlite.data import build_transforms, plain_tensor, read_image, rgb_tensor, seeded
from detlite.errors import UserError
from detlite.evaluation.inference import to_original_size


class Sample(NamedTuple):
    """An image made ready for the model.

    Attributes:
        key: what its detections are to be known by.
        image: (3, H, W), transformed.
        size: (height, width) before that.
    """

    key: object
    image: torch.Tensor
    size: tuple


class Detector:
    """A trained detector: ``Detector.from_checkpoint("model_final.pth")("photo.jpg")``.

    ``classes`` are the names of the labels 1 ... K, and ``id2label`` the same as {label: name}, 0 the background.

    Args:
        model: a detector with torchvision's face.
        classes: names of its classes.
        transforms: ``(image, target) -> (image, target)``, what happens to an image before the model sees it.
        score_threshold: detections that score less are left out; those that the model itself leaves out
            (``MODEL.ROI_HEADS.SCORE_THRESHOLD``) never come. 0 is right for measuring AP, 0.5 for looking.
        batch_size: most images in one forward pass. Only images of one size share one, so that none is padded for
            another's sake, and the result does not depend on what else is asked for (but for rounding).
    """

    def __init__(self, model, classes, transforms, *, score_threshold=0.0, batch_size=1):
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.eval()
        self.classes = list(classes)
        self.transforms = transforms
        self.score_threshold = score_threshold
        self.batch_size = batch_size

    @classmethod
    def from_checkpoint(
        cls,
        weights,
        *,
        config=None,
        opts=(),
        imports=(),
        device="auto",
        precision=None,
        score_threshold=0.0,
        batch_size=None,
    ):
        """The detector in a checkpoint.

        Args:
            weights: a checkpoint that training wrote, or anything that :func:`detlite.checkpoint.read_weights` takes.
            config: path of a YAML file; None takes the config that the checkpoint carries.
            opts: changes to the config, ``["KEY", value, ...]``.
            imports: modules or .py files with the parts of your own that the config names; they are run.
            device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
            precision: fp32, bf16 or fp16; None takes the config's MODEL.PRECISION.
            score_threshold: see :class:`Detector`.
            batch_size: see :class:`Detector`; None takes EVALUATION.BATCH_SIZE.

        Raises:
            UserError: weights that cannot be read, that carry no config, or that are not of the config's detector.
        """
        weights = read_weights(weights)
        opts = [*opts, "MODEL.DEVICE", device, *(["MODEL.PRECISION", precision] if precision else [])]
        cfg = weights.load_config(opts, imports) if config is None else load_config(config, opts, imports)
        cfg, model = build_trained(cfg, weights)
        batch_size = cfg.EVALUATION.BATCH_SIZE if batch_size is None else batch_size
        transforms = build_transforms(cfg.TRANSFORMS.TEST)
        return cls(model, cfg.MODEL.CLASSES, transforms, score_threshold=score_threshold, batch_size=batch_size)

    @property
    def id2label(self):
        """{label: name}, 0 the background, as ``supervision.Detections.from_transformers`` takes it."""
        return dict(enumerate(["background", *self.classes]))

    def __call__(self, images, *, channel_order="RGB", class_scores=False):
        """Detect in one image or several.

        Args:
            images: one image or a list of images. Each is a path (turned upright as its EXIF data says); a PIL image
                (taken as it lies); a numpy array (H, W, 3), (H, W, 4) or (H, W), uint8 0-255 or float 0-1; or a tensor
                (3, H, W), uint8 0-255 or float 0-1. An array or tensor with one more dimension is a list.
            channel_order: of arrays and tensors: RGB, or BGR as ``cv2.imread`` gives it.
            class_scores: whether the scores of all classes are wanted.

        Returns:
            for one image a dict, for a list a list of dicts, on the CPU: "boxes" (R, 4) float32 xyxy in the pixels of
            the image as given, "scores" (R,), best first, "labels" (R,) int64 from 1, "names", a list of R class
            names, and, if wanted, "class_scores" (R, K), the scores of classes 1 ... K of the region behind each
            detection.

        Raises:
            UserError: an image that is none of these, or cannot be read, named by its path or place.
        """
        if channel_order not in ("RGB", "BGR"):
            raise UserError(f"channel_order is RGB or BGR, got {channel_order!r}")
        if isinstance(images, (np.ndarray, torch.Tensor)):
            one = images.ndim < 4
        else:
            one = isinstance(images, (str, os.PathLike, Image.Image)) or not isinstance(images, Iterable)
        images = [images] if one else list(images)
        samples = (
            self.prepare(to_tensor(image, channel_order, "the image" if one else f"image {place}"), place)
            for place, image in enumerate(images)
        )
        detections = dict(self.detect(samples, class_scores=class_scores))
        return detections[0] if one else [detections[place] for place in range(len(images))]

    def prepare(self, image, key=None):
        """Return the :class:`Sample` of a (3, H, W) image."""
        return prepare_image(image, self.transforms, key)

    def detect(self, samples, *, class_scores=False):
        """Detections as :meth:`__call__` gives them, each as soon as its batch is full.

        Args:
            samples: iterable of :class:`Sample`.
            class_scores: see :meth:`__call__`.

        Yields:
            (key, dict), not in the samples' order.
        """
        waiting = defaultdict(list)  # by what must be equal within a batch
        for sample in samples:
            kind = tuple(sample.image.shape), sample.image.dtype
            waiting[kind].append(sample)
            if sum(map(len, waiting.values())) >= 4 * self.batch_size:  # of many sizes not all can be kept waiting
                kind = max(waiting, key=lambda kind: len(waiting[kind]))
            elif len(waiting[kind]) < self.batch_size:
                continue
            yield from self._detect_batch(waiting.pop(kind), class_scores)
        for batch in waiting.values():
            yield from self._detect_batch(batch, class_scores)

    def _detect_batch(self, samples, class_scores):
        heads = getattr(self.model, "roi_heads", None)
        if hasattr(heads, "return_class_scores"):
            heads.return_class_scores = class_scores
        elif class_scores:
            raise UserError(f"{type(heads or self.model).__name__} gives no scores of all classes")
        with torch.inference_mode():
            found = self.model([sample.image for sample in samples])
        for sample, detections in zip(samples, found, strict=True):
            detections = to_original_size(detections, sample.image.shape[-2:], sample.size)
            keep = detections["scores"] >= self.score_threshold
            detections = {name: values[keep] for name, values in detections.items()}
            names = [self.classes[label - 1] for label in detections["labels"].tolist()]
            yield sample.key, detections | {"names": names}


def prepare_image(image, transforms, key=None):
    """Return the :class:`Sample` of a (3, H, W) image; random transforms draw the same numbers for every image."""
    boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=tuple(image.shape[-2:]))
    target = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
    with seeded(0):
        transformed, _ = transforms(tv_tensors.Image(image), target)
    return Sample(key, plain_tensor(transformed), tuple(image.shape[-2:]))


def to_tensor(image, channel_order="RGB", where="the image"):
    """An image of any kind that :class:`Detector` takes as a (3, H, W) RGB tensor, uint8 0-255 or float 0-1.

    Args:
        image: see :meth:`Detector.__call__`.
        channel_order: of arrays and tensors.
        where: what the image is called in messages.

    >>> to_tensor(np.array([[[10, 20, 30]]], np.uint8), "BGR").flatten()
    tensor([30, 20, 10], dtype=torch.uint8)
    """
    if isinstance(image, (str, os.PathLike)):
        return plain_tensor(read_image(os.fspath(image)))
    if isinstance(image, Image.Image):
        return plain_tensor(rgb_tensor(image))
    if isinstance(image, np.ndarray):
        values = image[:, :, None].repeat(3, axis=2) if image.ndim == 2 else image
        if values.ndim != 3 or values.shape[2] not in (3, 4):
            raise UserError(f"{where}: expected an array (H, W, 3), (H, W, 4) or (H, W), got {image.shape}")
        tensor = torch.from_numpy(np.ascontiguousarray(values[:, :, :3].transpose(2, 0, 1)))
    elif isinstance(image, torch.Tensor):
        tensor = plain_tensor(image)
        if tensor.ndim != 3 or len(tensor) != 3:
            raise UserError(f"{where}: expected a tensor (3, H, W), got {tuple(tensor.shape)}")
    else:
        raise UserError(f"{where}: expected a path, a PIL image, an array or a tensor, got {type(image).__name__}")
    if not tensor.numel() or not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise UserError(f"{where}: expected pixels, uint8 0-255 or float 0-1, got {image.dtype} {tuple(image.shape)}")
    if tensor.is_floating_point() and not (0 <= tensor.min() and tensor.max() <= 1):
        low, high = tensor.min().item(), tensor.max().item()
        raise UserError(f"{where}: float pixels are 0-1, got {low:g} to {high:g}; give uint8 for 0-255")
    return tensor.flip(0) if channel_order == "BGR" else tensor
