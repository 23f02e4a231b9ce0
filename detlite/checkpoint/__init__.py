"""Weights and whole training states, to and from files."""

from detlite.checkpoint.files import load_checkpoint, save_checkpoint
from detlite.checkpoint.weights import load_weights

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint"]
