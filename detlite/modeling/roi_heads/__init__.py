"""The second stage: what is in each proposed region, and where exactly."""
