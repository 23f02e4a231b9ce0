"""The default tree: the VGG16 Faster R-CNN of Ren et al. 2015 on built-in data.

These sections do not build anything. The engine reads their keys; their constructors only validate the values. The
keys of the parts that are named here are in the parts' signatures.
"""

import math
import re
from typing import Literal

from detlite import registry
from detlite.errors import require
from detlite.parts import Slot, SlotList

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()


class Model:
    """The keys that all detectors share.

    Args:
        classes: names of the classes; label k is the k-th name. If no layer sets them, training takes the data set's.
        device: device of the model: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        weights: weights to start from: a .pth, .npz or .safetensors file, an https address, or a name such as
            torchvision/vgg16; empty for none.
        min_weights_match: minimum fraction of the parameters that such weights should provide (a detector's, the whole
            model; a classifier's, the backbone) and that must match; 0 accepts any match.
        freeze: parameters that are not trained, by the beginning of their names, such as rpn.head or
            backbone.features.10, with the statistics of their BatchNorm. `explain --cost` lists the names of parts.
    """

    def __init__(
        self,
        *,
        classes: list[str] = VOC_CLASSES,
        device: str = "auto",
        weights: str = "",
        min_weights_match: float = 0.9,
        freeze: list[str] = (),
    ):
        names = ", ".join(classes) or "none"
        require(len(set(classes)) == len(classes) > 0, "CLASSES must be one or more different names", names)
        require(0 <= min_weights_match <= 1, "MIN_WEIGHTS_MATCH must be from 0 to 1", min_weights_match)


class TestEntry:
    """The key of each entry of a list of test data sets.

    Args:
        title: name of the entry's results and folder: letters, digits, - and _. Empty is test and the entry's number.
    """

    def __init__(self, *, title: str = ""):
        require(re.fullmatch(r"[\w-]*", title), "TITLE must be of letters, digits, - and _", repr(title))


class Datasets:
    """The data sets for training and test.

    Args:
        num_workers: processes that read and transform images, for each process of a run. auto is half of its cores, at
            most 8; 0 uses the process itself.
        group_by_aspect_ratio: whether a batch has only portrait or only landscape images, which reduces padding.
        bad_image: reaction to an image that is missing, unreadable or not of the annotated size. error stops; skip
            trains on the next image instead, and in test counts all objects of the image as missed; the number of
            skipped images is logged.
    """

    test_list = SlotList(registry.DATASETS, shared=TestEntry)
    slots = {
        "TRAIN": SlotList(registry.DATASETS, [{"NAME": "ShapesDataset"}]),
        "TEST": Slot(registry.DATASETS, "ShapesDataset", as_list=test_list, num_images=100, seed=1),
        "IMAGE_SAMPLER": Slot(registry.IMAGE_SAMPLERS, "UniformImageSampler"),
    }

    def __init__(
        self,
        *,
        num_workers: int | Literal["auto"] = "auto",
        group_by_aspect_ratio: bool = True,
        bad_image: Literal["error", "skip"] = "error",
    ):
        allowed = num_workers == "auto" or 0 <= num_workers <= 256
        require(allowed, "NUM_WORKERS must be auto or from 0 to 256", num_workers)


class Transforms:
    """The transforms of images and their boxes, in the order of the lists."""

    slots = {
        "TRAIN": SlotList(registry.TRANSFORMS, [{"NAME": "ResizeShortSide"}, {"NAME": "RandomHorizontalFlip"}]),
        "TEST": SlotList(registry.TRANSFORMS, [{"NAME": "ResizeShortSide"}]),
    }


class Solver:
    """The training: batch size, number of steps, checkpoints and log.

    Args:
        batch_size: images per step, over all processes.
        accumulation: number of passes into which each process splits its images of a step; gradients are averaged.
        max_iter: number of steps; null if EPOCHS is set.
        epochs: number of passes over the data, instead of MAX_ITER; may be a fraction. In each pass as many images are
            trained on as there are.
        reference_batch_size: batch size that LR is meant for. The learning rate is
            LR * BATCH_SIZE / REFERENCE_BATCH_SIZE (Goyal et al. 2017, section 2.1); 0 uses LR unchanged.
        clip_gradient_norm: largest norm of all gradients together; larger ones are scaled down to it. 0 for no limit.
        ema_decay: decay of an exponential moving average of the weights, over about 1 / (1 - EMA_DECAY) steps. The
            average is evaluated and saved in place of the last weights. 0 for none.
        checkpoint_period: steps between checkpoints; the last step is always saved.
        keep_checkpoints: number of latest checkpoints to keep; two protect against a damaged file.
        log_period: steps between lines in the log and in metrics.jsonl.
    """

    alternatives = ("MAX_ITER", "EPOCHS")
    slots = {"OPTIMIZER": Slot(registry.OPTIMIZERS, "SGD"), "LR_SCHEDULER": Slot(registry.LR_SCHEDULERS, "MultiStepLR")}

    def __init__(
        self,
        *,
        batch_size: int = 2,
        accumulation: int = 1,
        max_iter: int | None = 70000,
        epochs: float | None = None,
        reference_batch_size: int = 0,
        clip_gradient_norm: float = 0.0,
        ema_decay: float = 0.0,
        checkpoint_period: int = 5000,
        keep_checkpoints: int = 2,
        log_period: int = 20,
    ):
        require(batch_size >= 1, "BATCH_SIZE must be at least 1", batch_size)
        divides = accumulation >= 1 and batch_size % accumulation == 0
        require(divides, f"ACCUMULATION must divide BATCH_SIZE ({batch_size}) evenly", accumulation)
        require(max_iter is not None or epochs is not None, "MAX_ITER or EPOCHS must be set", "null for both")
        require(max_iter is None or max_iter >= 0, "MAX_ITER must be at least 0", max_iter)
        require(epochs is None or 0 < epochs < math.inf, "EPOCHS must be above 0", epochs)
        require(reference_batch_size >= 0, "REFERENCE_BATCH_SIZE must be at least 0 (off)", reference_batch_size)
        require(clip_gradient_norm >= 0, "CLIP_GRADIENT_NORM must be at least 0 (no limit)", clip_gradient_norm)
        require(0 <= ema_decay < 1, "EMA_DECAY must be at least 0 (none) and below 1", ema_decay)
        require(checkpoint_period >= 1, "CHECKPOINT_PERIOD must be at least 1", checkpoint_period)
        require(keep_checkpoints >= 1, "KEEP_CHECKPOINTS must be at least 1", keep_checkpoints)
        require(log_period >= 1, "LOG_PERIOD must be at least 1", log_period)


class Evaluation:
    """The evaluation on test data.

    Args:
        period: steps between evaluations during training; 0 evaluates only at the end.
        batch_size: images per forward pass.
        pictures: number of test images to draw, with ground truth and predictions side by side; 0 for none.
        loss: whether to compute the losses on the test data, as the results "validation.loss" and its parts.
        best: result, such as bbox.AP or validation.loss, that decides which weights are kept as model_best.pth: the
            highest result, or the lowest loss. Empty for none.
        patience: number of evaluations without improvement after which training stops; 0 for never.
    """

    slots = {"EVALUATORS": SlotList(registry.EVALUATORS, [{"NAME": "CocoEvaluator"}])}

    def __init__(
        self,
        *,
        period: int = 0,
        batch_size: int = 1,
        pictures: int = 8,
        loss: bool = False,
        best: str = "",
        patience: int = 0,
    ):
        require(period >= 0, "PERIOD must be at least 0 (at the end only)", period)
        require(batch_size >= 1, "BATCH_SIZE must be at least 1", batch_size)
        require(pictures >= 0, "PICTURES must be at least 0", pictures)
        require(patience >= 0, "PATIENCE must be at least 0 (never)", patience)
        require(best or not patience, "PATIENCE needs BEST, the result that must improve", patience)
        require(period or not best, "BEST needs a PERIOD of evaluations during training", best)


class Root:
    """The whole experiment.

    Args:
        imports: modules or .py files (relative to the config file) that register custom parts. Their code is run.
        output_dir: folder for everything that a run writes.
        seed: seed of all random draws.
        timeout: minutes of silence of a process or a loader worker after which a run ends, with its state saved. A
            process that computes is not silent. The log warns after a minute.
    """

    slots = {
        "MODEL": Slot(registry.META_ARCHITECTURES, "FasterRCNN", shared=Model),
        "DATASETS": Datasets,
        "TRANSFORMS": Transforms,
        "SOLVER": Solver,
        "EVALUATION": Evaluation,
        "HOOKS": SlotList(registry.HOOKS),
    }

    def __init__(self, *, imports: list[str] = (), output_dir: str = "output", seed: int = 0, timeout: float = 30.0):
        require(output_dir.isprintable() and output_dir, "OUTPUT_DIR must be a folder's name", repr(output_dir))
        require(0 <= seed < 2**63, "SEED must be at least 0 and less than 2 ** 63", seed)
        require(0 < timeout <= 10000, "TIMEOUT must be above 0 and at most 10000 minutes", timeout)
