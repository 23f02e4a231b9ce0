"""Detect in anybody's images: from Python, in files, and exported."""
