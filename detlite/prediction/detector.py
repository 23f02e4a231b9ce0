"""Detect in images with trained weights: ``detlite.Detector``."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from detlite.agreement import open_detector
from detlite.checkpoint import read_weights
from detlite.config import load_config
from detlite.data import build_test_transforms, plain_tensor, read_image, refuse_draws, rgb_tensor
from detlite.errors import UserError
from detlite.evaluation.inference import to_original_size
from detlite.files import read_json
from detlite.signature import accepts

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of pixels


class PreparedImage(NamedTuple):
    """A transformed image, ready for the model."""

    key: object  # any value; the image's detections are returned with it
    image: torch.Tensor  # (3, H, W), transformed
    size: tuple  # (height, width) before the transforms


class Detector:
    """A trained detector: ``Detector.from_checkpoint("model_final.pth")("photo.jpg")``.

    Several threads may share a detector.

    Args:
        model: a detector with torchvision's interface.
        classes: names of the labels 1 ... K.
        transforms: ``(image, target) -> (image, target)``, applied to each image before the model. They draw no random
            numbers, see :func:`detlite.data.build_test_transforms`.
        score_threshold: detections with lower scores are dropped, in addition to the model's own threshold
            (``MODEL.ROI_HEADS.SCORE_THRESHOLD``). Use 0 to measure AP, and about 0.5 to look at detections. A path of
            the file that ``detlite test --thresholds`` writes is a threshold per class.
        batch_size: maximum number of images per forward pass. Only images of equal size share a pass, without padding.
            Therefore the other images change a result only by rounding.
    """

    def __init__(
        self, model: torch.nn.Module, classes: list, transforms: Any, *, score_threshold: float = 0, batch_size: int = 1
    ):
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(score_threshold, (str, os.PathLike)):
            score_threshold = read_thresholds(score_threshold, classes)
        elif math.isnan(score_threshold):
            raise UserError("score_threshold must be a number, such as 0.5; got nan")
        refuse_draws([transforms], "transforms")
        self.model = model.eval()
        self.classes = list(classes)
        self.transforms = transforms
        self.score_threshold = score_threshold
        self.batch_size = batch_size

    @classmethod
    def from_checkpoint(
        cls,
        weights: object,
        *,
        config: str | os.PathLike | None = None,
        opts: list | tuple = (),
        imports: list | tuple = (),
        device: str = "auto",
        precision: str | None = None,
        score_threshold: float = 0.0,
        batch_size: int | None = None,
    ) -> "Detector":
        """Build the detector of a checkpoint.

        Args:
            weights: a checkpoint that training wrote, or anything that :func:`detlite.checkpoint.read_weights` accepts.
            config: path of a YAML file; None takes the config in the checkpoint.
            opts: changes to the config, ``["KEY", value, ...]``.
            imports: modules or .py files with custom parts that the config names; their code is executed.
            device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
            precision: auto, tf32, fp32, bf16 or fp16; None takes MODEL.PRECISION.
            score_threshold: see :class:`Detector`.
            batch_size: see :class:`Detector`; None takes EVALUATION.BATCH_SIZE.

        Raises:
            UserError: the weights cannot be read, have no config, or do not fit the config's detector.
        """
        weights = read_weights(weights)
        opts = ["MODEL.DEVICE", device, *opts]
        if precision:
            opts += ["MODEL.PRECISION", precision]
        cfg = weights.load_config(opts, imports) if config is None else load_config(config, opts, imports)
        cfg, model = open_detector(cfg, weights)
        if batch_size is None:
            batch_size = cfg.EVALUATION.BATCH_SIZE
        transforms = build_test_transforms(cfg.TRANSFORMS.TEST)
        return cls(model, cfg.MODEL.CLASSES, transforms, score_threshold=score_threshold, batch_size=batch_size)

    from_onnx = from_checkpoint  # the file of `detlite export` has the interface of a checkpoint

    @property
    def id2label(self) -> dict[int, str]:
        """Return {label: name}, 0 for the background, as ``supervision.Detections.from_transformers`` expects it."""
        return dict(enumerate(["background", *self.classes]))

    def __call__(
        self, images: Any, *, channel_order: str = "RGB", class_scores: bool = False, features: bool = False
    ) -> Any:
        """Detect in one image or several.

        Args:
            images: one image or a list of images. Each is a path (turned upright by its EXIF orientation); a PIL image
                (not turned); a numpy array (H, W, 3), (H, W, 4) or (H, W), uint8 0-255 or float 0-1; or a tensor
                (3, H, W), uint8 0-255 or float 0-1. A 4-dimensional array or tensor is a list.
            channel_order: channel order of arrays and tensors: RGB, or BGR as ``cv2.imread`` returns them.
            class_scores: whether to return the scores of all classes.
            features: whether to return the box head's output for each detection, to compare objects.

        Returns:
            a dict for one image, a list of dicts for a list. Its tensors are on the CPU, the best detection first:
            "boxes" (R, 4) float32 xyxy in pixels of the given image, "scores" (R,), "labels" (R,) int64 from 1 and, on
            request, "class_scores" (R, K) of classes 1 ... K and "features" (R, D). "names" is a list of R class names.

        Raises:
            UserError: an image of another type, or that cannot be read. The message has its path or index.
        """
        if channel_order not in ("RGB", "BGR"):
            raise UserError(f"channel_order is {channel_order!r}; expected RGB or BGR")
        extras = ["class_scores"] * class_scores + ["features"] * features
        is_one = _is_one_image(images)
        named = [("the image", images)] if is_one else ((f"image {index}", one) for index, one in enumerate(images))
        prepared = (
            prepare_image(to_tensor(image, channel_order, where), self.transforms, index)
            for index, (where, image) in enumerate(named)
        )
        found = dict(self.detect(prepared, extras=extras))
        return found[0] if is_one else [found[index] for index in sorted(found)]

    def detect(self, prepared: Iterable, *, extras: list | tuple = ()) -> Iterator[tuple[Any, dict]]:
        """Yield (key, detections) for each :class:`PreparedImage` of an iterable; see :meth:`__call__`.

        A batch is run as soon as it is full, so detections may come in another order than the images.
        """
        # Images of equal shape and type wait in one list until they fill a batch.
        waiting = defaultdict(list)
        for item in prepared:
            group = tuple(item.image.shape), item.image.dtype
            waiting[group].append(item)
            # Limit the memory: with too many images in all lists, run the longest list, full or not.
            if sum(map(len, waiting.values())) >= 4 * self.batch_size:
                group = max(waiting, key=lambda key: len(waiting[key]))
            elif len(waiting[group]) < self.batch_size:
                continue
            yield from self._detect_batch(waiting.pop(group), extras)
        for batch in waiting.values():
            yield from self._detect_batch(batch, extras)

    def _detect_batch(self, batch, extras):
        """Yield (key, detections) of prepared images of equal size."""
        options = {"extras": extras} if extras and accepts(self.model.forward, "extras") else {}
        with torch.inference_mode():
            found = self.model([item.image for item in batch], **options)
        for extra in extras:
            if not all(extra in detections for detections in found):
                name = type(getattr(self.model, "roi_heads", self.model)).__name__
                text = {"class_scores": "the scores of all classes", "features": "features of its detections"}[extra]
                raise UserError(f"{name} cannot return {text}")

        for item, detections in zip(batch, found, strict=True):
            detections = to_original_size(detections, item.image.shape[-2:], item.size)
            threshold = self.score_threshold
            if isinstance(threshold, torch.Tensor):  # (K,)
                threshold = threshold[detections["labels"] - 1]
            keep = detections["scores"] >= threshold
            detections = {name: values[keep] for name, values in detections.items()}
            detections["names"] = [self.classes[label - 1] for label in detections["labels"].tolist()]
            yield item.key, detections


def read_thresholds(path, classes):
    """Return the threshold of each class, (K,), in a file of ``detlite test --thresholds``; 0.5 for null."""
    content = read_json(path)
    try:
        values = [content[name]["threshold"] for name in classes]
        return torch.tensor([0.5 if value is None else float(value) for value in values])
    except (KeyError, TypeError, ValueError, OverflowError):
        expected = f"a threshold for each of {', '.join(classes)}"
        raise UserError(f"{path}: expected {expected}; write the file by `detlite test --thresholds f1`") from None


def _is_one_image(images):
    """Return True for one image, or for a mistake such as a number; False for several images."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return images.ndim < 4
    return isinstance(images, (str, os.PathLike, Image.Image)) or not isinstance(images, Iterable)


def prepare_image(image, transforms, key=None):
    """Return the :class:`PreparedImage` of a (3, H, W) image."""
    boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=tuple(image.shape[-2:]))
    target = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
    transformed, _ = transforms(tv_tensors.Image(image), target)
    return PreparedImage(key, plain_tensor(transformed), tuple(image.shape[-2:]))


def to_tensor(image, channel_order="RGB", where="the image"):
    """Convert any image that :class:`Detector` accepts to a (3, H, W) RGB tensor, uint8 0-255 or float 0-1.

    ``channel_order`` is of arrays and tensors. ``where`` is the name of the image in messages.

    >>> to_tensor(np.array([[[10, 20, 30]]], np.uint8), "BGR").flatten()
    tensor([30, 20, 10], dtype=torch.uint8)
    """
    # Files and PIL images are RGB and uint8 after reading.
    if isinstance(image, (str, os.PathLike)):
        return plain_tensor(read_image(os.fspath(image)))
    if isinstance(image, Image.Image):
        try:
            if not min(image.size):
                raise ValueError(f"it has no pixels, its size is {image.size}")
            return plain_tensor(rgb_tensor(image))
        except Exception as error:  # a lazy image is read here; broken ones raise anything
            raise UserError(f"{where}: cannot be read as an image: {error}") from error
    if isinstance(image, np.ndarray):
        tensor = _from_array(image, where)
    elif isinstance(image, torch.Tensor):
        tensor = plain_tensor(image)
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
            raise UserError(f"{where}: expected a dense tensor (3, H, W), got a sparse, nested or meta tensor")
        if tensor.ndim != 3 or len(tensor) != 3:
            raise UserError(f"{where}: expected a tensor (3, H, W), got {tuple(tensor.shape)}")
    else:
        raise UserError(f"{where}: expected a path, a PIL image, an array or a tensor, got {type(image).__name__}")

    # Check type and range: float pixels of 0-255, a common mistake, would give wrong detections without an error.
    if not tensor.numel() or tensor.dtype not in DTYPES:
        raise UserError(f"{where}: expected pixels, uint8 0-255 or float 0-1, got {image.dtype} {tuple(image.shape)}")
    if tensor.is_floating_point() and not (0 <= tensor.min() and tensor.max() <= 1):
        low, high = tensor.min().item(), tensor.max().item()
        raise UserError(f"{where}: expected float pixels from 0 to 1, got {low:g} to {high:g}; use uint8 for 0-255")
    return tensor.flip(0) if channel_order == "BGR" else tensor


def _from_array(image, where):
    """Convert an array (H, W, 3), (H, W, 4) or (H, W) to a tensor (3, H, W)."""
    values = image
    if image.ndim == 2:
        values = image[:, :, None].repeat(3, axis=2)
    if values.ndim != 3 or values.shape[2] not in (3, 4):
        raise UserError(f"{where}: expected an array (H, W, 3), (H, W, 4) or (H, W), got {image.shape}")

    if values.dtype.kind == "f":
        values = values.astype(np.float32)  # torch has no other byte order, and no long double
    elif values.dtype != np.uint8:
        raise UserError(f"{where}: expected pixels, uint8 0-255 or float 0-1, got {image.dtype} {image.shape}")
    return torch.from_numpy(np.ascontiguousarray(values[:, :, :3].transpose(2, 0, 1)))
