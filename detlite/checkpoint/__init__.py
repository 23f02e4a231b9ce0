"""Read and write weights and training states, and load weights into a model."""

from detlite.checkpoint.files import load_checkpoint, save_checkpoint
from detlite.checkpoint.pixel_statistics import Pixels, agree_on_pixels, pixels_of
from detlite.checkpoint.run_checkpoints import CheckpointSeries
from detlite.checkpoint.weights import Weights, load_weights, read_weights, weights_in

__all__ = [
    "CheckpointSeries",
    "Pixels",
    "Weights",
    "agree_on_pixels",
    "load_checkpoint",
    "load_weights",
    "pixels_of",
    "read_weights",
    "save_checkpoint",
    "weights_in",
]
