"""Time each deployed form of one detector: python benchmarks/deployment.py WEIGHTS FLOAT.onnx INT8.onnx.

The forms are detlite in fp32 and bf16, the two ONNX files that `detlite export` writes for the weights, and
torchvision's detector with the same weights, eager and exported. They take turns on one image, which no form resizes,
and the first turn does not count. Ratios are the medians of those to torchvision's detector in the same turn. --ap adds
each form's AP on the weights' DATASETS.TEST.
"""

import argparse
import io
import statistics
import tempfile
import time
import warnings

import onnxruntime
import torch
from tabulate import tabulate

from detlite.agreement import build_test_sets, open_detector
from detlite.checkpoint import read_weights
from detlite.engine.test import evaluate_model
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
    help = "test each form, with these changes to the weights' config"
    parser.add_argument("--ap", metavar="KEY VALUE", nargs="*", help=help)
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


class ExportedTorchvision(torch.nn.Module):
    """torchvision's detector, exported once per image size, with the interface of a detector."""

    def __init__(self, ours):
        super().__init__()
        self.twin = TorchvisionTwin(ours).eval()
        self.functions = {}

    def forward(self, images):
        found = []
        for image in images:
            if image.shape not in self.functions:
                self.functions[image.shape] = runner(export_torchvision(self.twin, image), torch.get_num_threads())
            outputs = map(torch.from_numpy, self.functions[image.shape](image))
            found.append(dict(zip(("boxes", "scores", "labels"), outputs, strict=True)))
        return found


def average_precisions(given):
    """Return the AP of each form on DATASETS.TEST, as text."""
    forms = {
        "torchvision": (given.weights, "fp32", TorchvisionTwin),
        "torchvision, ONNX": (given.weights, "fp32", ExportedTorchvision),
        "detlite": (given.weights, "fp32", None),
        "detlite, bf16": (given.weights, "bf16", None),
        "ONNX": (given.float_file, None, None),
        "ONNX, int8": (given.int8_file, None, None),
    }
    results = {}
    for name, (file, precision, adapt) in forms.items():
        weights = read_weights(file)
        changes = ["MODEL.PRECISION", precision] if precision else []
        with tempfile.TemporaryDirectory() as folder:
            changes += [*given.ap, "EVALUATION.PICTURES", 0, "OUTPUT_DIR", folder]
            cfg, model = open_detector(weights.load_config(changes), weights)
            model = adapt(model) if adapt else model
            results[name] = format(evaluate_model(cfg, model, build_test_sets(cfg))["bbox"]["AP"], ".4f")
    return results


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
    scores = average_precisions(given) if given.ap is not None else {}
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
                rows[-1].append(scores.get(name, ""))
            print(f"{height} x {width}, threads: {threads}, rounds: {given.rounds}")
            print(tabulate(rows, ["", "s", "ratio", "AP"], tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
