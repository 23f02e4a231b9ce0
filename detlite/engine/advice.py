"""Warnings about numbers that show a training that cannot succeed or wastes time, with the remedy."""

FEWEST_OBJECTS, LEAST_MATCHED = 20, 0.7  # fewer objects say nothing; least fraction that matches an anchor


def advice(trainer, sums):
    """Yield (kind, warning) about the steps of a log line. A kind should be logged once per run.

    ``sums`` are {name: (sum, count)} over the steps, as in the trainer's statistics.
    """
    # Anchors that fit few objects.
    matched, objects = sums.get("objects_matched", (0, 0))
    if objects >= FEWEST_OBJECTS and matched < LEAST_MATCHED * objects:
        missed = f"{1 - matched / objects:.0%} of objects"
        yield "anchors", f"{missed} match no anchor at an IoU of 0.5; `detlite check` says which key to change"

    # A stage that never sees an object.
    for stage, section in (("rpn", "RPN"), ("roi", "ROI_HEADS")):
        foreground, images = sums.get(f"{stage}_foreground", (0, 0))
        if images and not foreground and objects >= FEWEST_OBJECTS:
            yield stage, f"no foreground was sampled in {images:.0f} images: see MODEL.{section}.MATCHER and .SAMPLER"
        if images >= FEWEST_OBJECTS and sums.get("objects_matched") == (0, 0):
            yield "objects", f"the last {images:.0f} images have no objects: only background is learned from them"

    # A step that waits for images. The first one always does: the workers start.
    seconds, steps = sums["seconds_per_step"]
    waited = sums["data_seconds_per_step"][0]
    if steps > 1 and waited > seconds / 2:
        workers = getattr(trainer.batches, "num_workers", 0)
        remedy = f"increase DATASETS.NUM_WORKERS ({workers}) or use smaller files"
        yield "data", f"{waited / seconds:.0%} of the time is spent waiting for images: {remedy}"
