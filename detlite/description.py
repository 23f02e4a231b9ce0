"""Describe the values that parts take and return, for messages."""

import torch

from detlite.errors import shortened


def describe(value):
    """Describe a value as text. Of a tensor: type, shape and up to 12 numbers.

    >>> describe((torch.tensor([1, 2]), {"boxes": torch.zeros(9, 4)}))
    '(int64 (2,) [1, 2], {boxes: float32 (9, 4)})'
    """
    if isinstance(value, torch.Tensor):
        return _describe_tensor(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (torch.Tensor, dict)) for item in value):
        text = ", ".join(map(describe, value[:6]))
        if len(value) > 6:
            text += ", ..."
        return f"({text})" if isinstance(value, tuple) else f"[{text}]"
    return getattr(value, "__name__", None) or shortened(value)


def _describe_tensor(value):
    text = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if value.device.type != "cpu":
        text += f" on {value.device}"
    if value.layout != torch.strided or value.device.type == "meta":
        return text if value.layout == torch.strided else f"sparse {text}"
    if value.is_floating_point() and not value.isfinite().all():
        text += ", not finite"
    if 0 < value.numel() <= 12:
        text += f" {value.tolist()}"
    return text
