"""Boxes and batches of images."""
