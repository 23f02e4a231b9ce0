"""Show that threads may share one detector: 16 threads, mixed options, results equal to one thread's to the bit.

    python tests/prediction/detect_in_threads.py --threads 16 --calls 2000

Half of the calls ask for all class scores; some are of one image, some of several, some of BGR arrays. Prints the
number of calls and exits with status 1 if a result differs, or if the calls changed a random state of the program.
"""

import argparse
import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from detlite import Detector
from detlite.config import load_config
from detlite.data import ShapesDataset, build_test_transforms
from detlite.modeling import build_model
from detlite.seeding import random_state

KEYS = """MODEL.DEVICE cpu MODEL.BACKBONE.DEPTH 11 MODEL.BACKBONE.WIDTH 0.125 MODEL.RPN.HEAD.CONV_DIM 16
MODEL.RPN.ANCHOR_GENERATOR.SIZES [16,32] MODEL.RPN.MIN_SIZE 1 MODEL.RPN.POST_NMS_TOP_N_TEST 50
MODEL.ROI_HEADS.BOX_HEAD.FC_DIM 32 MODEL.CLASSES [circle,square,triangle] TRANSFORMS.TEST.0.SIZE 96""".split()


def build_detector():
    """Return an untrained small detector with the default transforms."""
    cfg = load_config(opts=KEYS)
    torch.manual_seed(0)
    return Detector(build_model(cfg), cfg.MODEL.CLASSES, build_test_transforms(cfg.TRANSFORMS.TEST), batch_size=2)


def all_calls():
    """Return (images, options) of every kind of call."""
    images = [ShapesDataset(image_size=96, seed=7)[index][0][:, : 60 + 12 * index] for index in range(4)]
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    groups = [(image, "RGB") for image in images] + [(images, "RGB"), (arrays[0], "BGR"), (arrays, "BGR")]
    calls = []
    for (group, order), class_scores in itertools.product(groups, (False, True)):
        calls.append((group, {"channel_order": order, "class_scores": class_scores}))
    return calls


def are_equal(first, second):
    """Return whether two results of a call are equal to the bit."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(are_equal, first, second))
    if first.keys() != second.keys() or first["names"] != second["names"]:
        return False
    return all(torch.equal(first[name], second[name]) for name in first.keys() - {"names"})


def count_differences(detector, num_threads, num_calls):
    """Call a detector from several threads; return how many results differ from one thread's."""
    calls = all_calls()
    expected = [detector(images, **options) for images, options in calls]

    def differs(number):
        images, options = calls[number % len(calls)]
        return not are_equal(detector(images, **options), expected[number % len(calls)])

    with ThreadPoolExecutor(num_threads) as threads:
        return sum(threads.map(differs, range(num_calls)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    detector = build_detector()
    before, begin = random_state(), time.perf_counter()
    wrong = count_differences(detector, options.threads, options.calls)
    is_changed = random_state() != before
    seconds = time.perf_counter() - begin
    print(
        f"{options.threads} threads, {options.calls} calls, {seconds:.0f} s: {wrong} results differ from one thread's"
    )
    print(f"random state of the program: {'CHANGED' if is_changed else 'unchanged'}")
    return bool(wrong or is_changed)


if __name__ == "__main__":
    sys.exit(main())
