"""Data sets: images in files of several formats, and generated shapes."""
