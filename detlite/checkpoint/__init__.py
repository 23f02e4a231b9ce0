"""Read and write weights and training states, and load weights into a model."""

from detlite.checkpoint.files import load_checkpoint, save_checkpoint
from detlite.checkpoint.pixel_statistics import agree_on_pixels
from detlite.checkpoint.weights import load_weights, read_weights, weights_in

__all__ = ["agree_on_pixels", "load_checkpoint", "load_weights", "read_weights", "save_checkpoint", "weights_in"]
