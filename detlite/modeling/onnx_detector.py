"""A detector in an ONNX file of ``detlite export``, with the interface of the other models."""

import torch
from torch import nn

from detlite.errors import UserError
from detlite.modeling.base import check_images, to_255


class OnnxDetector(nn.Module):
    """Detects in one image at a time with onnxruntime's ``session`` of the file ``source``."""

    def __init__(self, session, source, num_classes):
        super().__init__()
        self.session, self.source, self.num_classes = session, source, num_classes

    def forward(self, images):
        """Return the detections of a list of images, see :class:`~detlite.modeling.base.DetectorBase`."""
        detections = []
        for image, (height, width) in zip(images, check_images(images), strict=True):
            pixels = to_255(image).round().to("cpu", torch.uint8)
            try:
                *found, counts = map(torch.from_numpy, self.session.run(None, {"images": pixels[None].numpy()}))
                boxes, scores, labels = (values[0, : counts[0]] for values in found)
                if not ((labels >= 1) & (labels <= self.num_classes)).all():
                    raise ValueError(f"its labels are not 1 ... {self.num_classes}")
            except Exception as error:  # onnxruntime's errors have no common class
                reason = str(error).split("\n")[0]
                raise UserError(f"{self.source}: fails in an image of {height} x {width} pixels: {reason}") from None
            detections.append({"boxes": boxes, "scores": scores, "labels": labels})
        return detections
