"""Look inside: pictures of what happens to an image, what a detector costs, and the report of a run."""
