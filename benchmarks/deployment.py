"""Time each deployed form of one detector: python benchmarks/deployment.py WEIGHTS FLOAT.onnx INT8.onnx.

The forms are detlite in fp32 and bf16, the two ONNX files that `detlite export` writes for the weights, and
torchvision's detector with the same weights, eager and exported. They take turns on one image, which no form resizes,
and the first turn does not count. Ratios are the medians of those to torchvision's detector in the same turn.
"""

import argparse
import io
import statistics
import time
import warnings

import onnxruntime
import torch
from tabulate import tabulate

from detlite.prediction.detector import Detector
from torchvision_twin import TorchvisionTwin

PATCH = 4  # side of the image's squares of one color


def parse_size(text):
    """Return (height, width) of a text such as 600x800."""
    height, width = map(int, text.split("x"))
    return height, width


def parser():
    """Return the script's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("float_file")
    parser.add_argument("int8_file")
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[(300, 400), (600, 800), (800, 800)])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    return parser


class OneImage(torch.nn.Module):
    """torchvision's detector for one image, with outputs that torch.onnx accepts."""

    def __init__(self, twin):
        super().__init__()
        self.twin = twin

    def forward(self, image):
        (found,) = self.twin([image])
        return found["boxes"], found["scores"], found["labels"]


def export_torchvision(twin, image):
    """Return torchvision's detector as an ONNX file, in bytes, for images of one size."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["image"], "output_names": ["boxes", "scores", "labels"]}
        torch.onnx.export(OneImage(twin).eval(), (image,), file, dynamo=False, opset_version=17, **names)
    return file.getvalue()


def runner(file, threads):
    """Open an ONNX file, a path or bytes, and return a function of an image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(image):
        # detlite's files take a batch of images.
        return session.run(None, {given.name: (image[None] if len(given.shape) == 4 else image).numpy()})

    return run


def time_in_turns(forms, image, rounds):
    """Return the seconds of each form in each round."""
    seconds = {name: [] for name in forms}
    for _ in range(rounds + 1):
        for name, detect in forms.items():
            begin = time.perf_counter()
            detect(image)
            seconds[name].append(time.perf_counter() - begin)
    return {name: times[1:] for name, times in seconds.items()}


@torch.inference_mode()
def main():
    given = parser().parse_args()
    fp32 = Detector.from_checkpoint(given.weights, device="cpu", precision="fp32").model
    bf16 = Detector.from_checkpoint(given.weights, device="cpu", precision="bf16").model
    twin = TorchvisionTwin(fp32).eval()
    for threads in given.threads:
        torch.set_num_threads(threads)
        for height, width in given.sizes:
            image = torch.randint(256, (3, height // PATCH, width // PATCH), dtype=torch.uint8)
            image = image.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
            forms = {
                "torchvision": lambda image: twin([image]),
                "torchvision, ONNX": runner(export_torchvision(twin, image), threads),
                "detlite": lambda image: fp32([image]),
                "detlite, bf16": lambda image: bf16([image]),
                "ONNX": runner(given.float_file, threads),
                "ONNX, int8": runner(given.int8_file, threads),
            }
            seconds = time_in_turns(forms, image, given.rounds)

            # One row per form.
            rows = []
            for name, times in seconds.items():
                ratios = [own / other for own, other in zip(times, seconds["torchvision"], strict=True)]
                rows.append([name, f"{statistics.median(times):.3f}", f"{statistics.median(ratios):.2f}"])
            print(f"{height} x {width}, threads: {threads}, rounds: {given.rounds}")
            print(tabulate(rows, ["", "s", "ratio"], tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
