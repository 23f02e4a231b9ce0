"""Data sets: what becomes of files of each form, and shapes that need none."""
