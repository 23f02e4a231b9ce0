"""Base of all detectors: torchvision's interface, and preprocessing of images."""

import bisect
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detlite.errors import UserError, require
from detlite.modeling.precision import DTYPES, autocast, resolve_precision
from detlite.ops.batches import batch_images, starts_of

# Entries that detections have only on request. "class_scores" (R, K): each detection's scores for all classes.
# "features" (R, D): the box head's output for each detection. "proposals" (S, 4): the image's proposals.
EXTRAS = frozenset({"class_scores", "features", "proposals"})


class DetectorBase(nn.Module):
    """Base of the meta-architectures.

    Subclasses add ``losses_from_features`` and ``detections_from_features``, which receive the backbone's features.

    Args:
        pixel_mean: value to subtract from each channel (0-255), in channel_order. It must suit the pretrained weights.
        pixel_std: value to divide each channel by, in channel_order. It must suit the pretrained weights.
        channel_order: order of the backbone's input channels, RGB (torchvision's weights) or BGR (Caffe's).
        precision: data type of convolutions and linear layers; weights, boxes and losses stay fp32. auto is bf16 on
            hardware with instructions for it, else fp32. tf32 works on CUDA only; other devices use fp32.
        padding_multiple: height and width of a batch are multiples of it; null is the backbone's largest stride.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        pixel_mean: list[float] = (102.9801, 115.9465, 122.7717),
        pixel_std: list[float] = (1.0, 1.0, 1.0),
        channel_order: Literal["RGB", "BGR"] = "BGR",
        precision: Literal["auto", "tf32", "fp32", "bf16", "fp16"] = "fp32",
        padding_multiple: int | None = None,
    ):
        super().__init__()
        is_finite = all(map(math.isfinite, [*pixel_mean, *pixel_std]))
        if not len(pixel_mean) == len(pixel_std) == 3 or not is_finite or min(pixel_std) <= 0:
            rule = "pixel_mean and pixel_std must be three numbers each, pixel_std above 0"
            raise ValueError(f"{rule}; got {pixel_mean} and {pixel_std}")
        fits = padding_multiple is None or padding_multiple >= 1
        require(fits, "padding_multiple must be at least 1", padding_multiple)
        self.backbone = backbone
        self.padding_multiple = padding_multiple or max(backbone.strides.values())
        self.num_classes = num_classes
        self.channel_order = channel_order
        self.precision = precision
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)

    @property
    def precision(self):
        """Return the precision on the model's device: fp32, tf32, bf16 or fp16."""
        return resolve_precision(self.precision_setting, self.pixel_mean.device).name

    @precision.setter
    def precision(self, setting):
        """Set the precision; auto and tf32 depend on the device."""
        self.precision_setting = setting

    def forward(self, images: list[Tensor], targets: list[dict] | None = None, *, extras: list | tuple = ()) -> Any:
        """Return losses in training, detections in evaluation, as torchvision does.

        Args:
            images: list of (3, H, W) RGB tensors, uint8 0-255 or float 0-1; sizes may differ. Or a tensor (N, 3, H, W).
            targets: in training, for each image a dict of "boxes" (M, 4) with 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H,
                "labels" (M,) int64 in 1 ... K and, optionally, "seed", an int that determines the image's sampling, and
                "ignored" (I, 4), regions that are neither objects nor background.
            extras: further entries of the detections, see EXTRAS.

        Returns:
            in training a dict of scalar losses; in evaluation a list of {"boxes" (R, 4), "scores" (R,), "labels" (R,)},
            best first, in the given images' pixels.

        Raises:
            UserError: an image or target is not as described above. The message names its index in the list and, for a
                target, its "image_id".
        """
        if self.training:
            if targets is None:
                raise UserError("in training the model needs targets; call model.eval() first to detect")
            return self.losses(images, targets)
        return self.detect(images, extras)

    def losses(self, images, targets):
        """Return the losses of a batch in either mode, see :meth:`forward`."""
        if len(images) != len(targets) or not len(images):
            given = f"{len(images)} images and {len(targets)} targets"
            raise UserError(f"training needs one target per image, and at least one image; got {given}")
        image_sizes = check_images(images)
        targets = self._check_targets(targets, image_sizes)
        generators = [image_generator(target) for target in targets]
        with autocast(self.precision, self.pixel_mean.device):
            return self.losses_from_features(self.features(images), image_sizes, targets, generators)

    def detect(self, images, extras=()):
        """Return the detections of a batch in either mode, see :meth:`forward`."""
        if not len(images):
            return []
        image_sizes = check_images(images)
        with autocast(self.precision, self.pixel_mean.device):
            detections = self.detections_from_features(self.features(images), image_sizes)
        for found in detections:
            for name in EXTRAS.difference(extras):
                found.pop(name, None)
        return detections

    def convert_weights(self):
        """Convert the weights to ``precision`` once, instead of in every pass.

        Only convolutions and linear layers are converted. autocast would convert the same weights in every pass, so the
        detections stay bitwise equal. Use this only for detectors that never train.
        """
        if self.precision in DTYPES:
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    module.to(DTYPES[self.precision])

    def features(self, images):
        """Return the backbone's features of images, a list of one (N, C, h, w) per level."""
        return list(self.backbone(self.preprocess(images)).values())

    def preprocess(self, images):
        """Normalize and pad a list of images to a batch (N, 3, H, W), channels last.

        The images are copied into one batch on the model's device, and normalized there.
        """
        device, divisor = self.pixel_mean.device, self.padding_multiple

        # uint8 images are copied as bytes, and converted after the copy. A mix of types is converted before it.
        if len({image.dtype for image in images}) == 1:
            batch = to_255(batch_images(images, divisor, device))
        else:
            batch = batch_images([to_255(image).float() for image in images], divisor, device)
        if self.channel_order == "BGR":
            batch = batch.flip(1)
        batch = (batch - self.pixel_mean).div_(self.pixel_std)

        # Padding is 0 after the normalization.
        for index, image in enumerate(images):
            height, width = image.shape[1:]
            if height < batch.shape[2]:
                batch[index, :, height:] = 0
            if width < batch.shape[3]:
                batch[index, :, :, width:] = 0
        return batch.contiguous(memory_format=torch.channels_last)

    def _check_targets(self, targets, image_sizes):
        """Check the targets of a batch and copy them to the model's device.

        The checks run for all images at once, on the device of the targets, usually the CPU. On a GPU each check would
        wait for all queued work.
        """
        for index, target in enumerate(targets):
            check_shapes(target, index)
        counts = [len(target["boxes"]) for target in targets]
        source = targets[0]["boxes"].device
        boxes, labels = [], []
        for target in targets:
            boxes.append(target["boxes"].as_subclass(torch.Tensor).to(source, torch.float32))
            labels.append(target["labels"].to(source, torch.int64))
        boxes, labels = torch.cat(boxes), torch.cat(labels)

        # Label 0 is the background, so no object may have it. A box may leave the image, but it needs an area and some
        # overlap with the image. ``limits`` is (width, height) of each box's image.
        is_label = (labels >= 1) & (labels <= self.num_classes)
        sizes = torch.tensor([(width, height) for height, width in image_sizes], device=source)
        limits = sizes.repeat_interleave(torch.tensor(counts, device=source), dim=0)
        low, high = boxes[:, :2], boxes[:, 2:]
        is_box = (high > low).all(dim=1) & boxes.isfinite().all(dim=1)
        is_box &= (low < limits).all(dim=1) & (high > 0).all(dim=1)
        if not (is_label & is_box).all():
            self._report_row(int((is_label & is_box).int().argmin()), targets, image_sizes, boxes, labels)

        # All boxes are copied at once, and all labels. Each target gets views of the copies.
        device = self.pixel_mean.device
        boxes = boxes.to(device, non_blocking=True).split(counts)
        labels = labels.to(device, non_blocking=True).split(counts)
        checked = []
        for target, image_boxes, image_labels in zip(targets, boxes, labels, strict=True):
            checked.append({**target, "boxes": image_boxes, "labels": image_labels})
            if "ignored" in target:
                checked[-1]["ignored"] = target["ignored"].to(device, torch.float32, non_blocking=True)
        return checked

    def _report_row(self, row, targets, image_sizes, boxes, labels):
        """Raise an error about a row of all images' boxes and labels."""
        index = bisect.bisect_right(starts_of([target["boxes"] for target in targets]), row) - 1
        where = describe_target(targets[index], index)
        label = int(labels[row])
        if not 1 <= label <= self.num_classes:
            raise UserError(f"{where}: label {label} is not in 1 ... {self.num_classes} (0 is background)")
        rule = f"needs x1 < x2, y1 < y2 and an overlap with the image of (height, width) {image_sizes[index]}"
        raise UserError(f"{where}: box {boxes[row].tolist()} {rule}")


def check_images(images):
    """Return each image's (height, width). Raise an error unless the images are (3, H, W), uint8 or float."""
    for index, image in enumerate(images):
        expected = f"image {index}: expected a (3, H, W) RGB tensor, uint8 0-255 or float 0-1; got"
        if not isinstance(image, torch.Tensor):
            raise UserError(f"{expected} {type(image).__name__}")
        if image.dim() != 3 or image.shape[0] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise UserError(f"{expected} shape {tuple(image.shape)}, {image.dtype}")
    return [tuple(image.shape[-2:]) for image in images]


def to_255(images):
    """Scale float images from 0-1 to 0-255. uint8 images are returned unchanged."""
    return images if images.dtype == torch.uint8 else images.float() * 255


def describe_target(target, index):
    """Return a target's name for messages: its index in the list and, if it has one, its image."""
    return f"target {index} (image {target['image_id']})" if "image_id" in target else f"target {index}"


def check_shapes(target, index):
    """Raise an error unless a target has boxes (M, 4) and labels (M,)."""
    if not isinstance(target, Mapping):
        raise UserError(f"target {index}: expected a dict of boxes and labels, got {type(target).__name__}")
    where = describe_target(target, index)
    for key in ("boxes", "labels"):
        if key not in target:
            raise UserError(f"{where}: it has no {key}, only {', '.join(target) or 'nothing'}")
        if not isinstance(target[key], torch.Tensor):
            raise UserError(f"{where}: {key} must be a tensor, got {type(target[key]).__name__}")
    boxes, labels = target["boxes"], target["labels"]
    if labels.dim() != 1 or boxes.shape != (len(labels), 4):
        raise UserError(f"{where}: boxes are (M, 4) and labels (M,); got {tuple(boxes.shape)}, {tuple(labels.shape)}")


def image_generator(target):
    """Return a generator for an image's sampling, with the target's "seed". Without a seed, return None."""
    if "seed" not in target:
        return None
    return torch.Generator().manual_seed(int(target["seed"]))
