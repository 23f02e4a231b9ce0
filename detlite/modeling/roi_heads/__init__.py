"""The second stage: the class of each proposed region, and its exact box."""
