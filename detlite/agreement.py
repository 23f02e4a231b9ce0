"""Check that config, data and weights agree on classes and pixel statistics; build the trained model."""

import logging
from dataclasses import dataclass

from detlite.checkpoint import agree_on_pixels, load_weights
from detlite.config import Config, override
from detlite.config.explain import explain
from detlite.data import build_dataset
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.onnx_detector import OnnxDetector
from detlite.modeling.precision import log_precision

logger = logging.getLogger("detlite")


def agree_on_classes(cfg, classes, source):
    """Fill in MODEL.CLASSES with class names in the order of their labels, or raise a UserError if it has others.

    ``source`` names the data set or file that has these classes.
    """
    if cfg.MODEL.sources["CLASSES"] == "default":  # neither a file nor the command line sets it
        return override(cfg, {"MODEL.CLASSES": list(classes)}, source)
    if list(cfg.MODEL.CLASSES) != list(classes):
        difference = f"MODEL.CLASSES is {list(cfg.MODEL.CLASSES)}, but the classes of {source} are {list(classes)}"
        raise UserError(f"{cfg.MODEL.sources['CLASSES']}: {difference}; remove MODEL.CLASSES to use those")
    return cfg


@dataclass
class TestSet:
    """A data set of DATASETS.TEST."""

    node: Config
    prefix: str  # of the names of its results: the title and a dot; "" if DATASETS.TEST is no list
    subfolder: str  # of OUTPUT_DIR, for its files; "" for the first
    dataset: object = None  # see :func:`build_test_sets`


def list_test_sets(cfg):
    """List the :class:`TestSet` of DATASETS.TEST, or of each entry if it is a list, without the data sets.

    An empty list, or a title that occurs twice, is a UserError.
    """
    nodes = cfg.DATASETS.TEST
    if isinstance(nodes, Config):
        return [TestSet(nodes, "", "")]
    titles = [node.TITLE or f"test{number}" for number, node in enumerate(nodes)]
    different = set(map(str.lower, titles))  # some file systems ignore case
    if not len(different) == len(titles) > 0:
        names = ", ".join(titles) or "none"
        raise UserError(f"DATASETS.TEST: expected one or more entries with different TITLEs, got {names}")
    subfolders = ["", *(f"tests/{title}" for title in titles[1:])]
    return [TestSet(node, f"{title}.", folder) for node, title, folder in zip(nodes, titles, subfolders, strict=True)]


def build_test_sets(cfg):
    """Build each :class:`TestSet` of DATASETS.TEST. Classes that are not the model's are a UserError."""
    test_sets = list_test_sets(cfg)
    for test_set in test_sets:
        test_set.dataset = build_dataset(test_set.node)
        require_model_classes(cfg, test_set.dataset, test_set.node.path)
    return test_sets


def require_model_classes(cfg, dataset, key="DATASETS.TEST"):
    """Raise a UserError that names ``key`` unless a test data set has the model's classes in the same order."""
    classes, expected = list(dataset.classes), list(cfg.MODEL.CLASSES)
    if classes == expected:
        return
    if sorted(classes) == sorted(expected):
        hint = "the same names in another order; set CLASSES of the data set to the model's order"
    else:
        hint = "test data must have the same classes, even if some have no objects"
    raise UserError(f"{key}: its classes are {classes}, the model's are {expected}: {hint}")


def build_trained(cfg, weights):
    """Build a config's detector and load trained weights.

    ``weights`` are from :func:`detlite.checkpoint.read_weights`; incomplete ones are a UserError. The returned (config,
    model) have the weights' classes and pixel statistics, unless ``cfg`` sets them.
    """
    if weights.classes:
        cfg = agree_on_classes(cfg, weights.classes, weights.source)
    if weights.spare_outputs:
        cfg = override(cfg, {"MODEL.ROI_HEADS.SPARE_OUTPUTS": weights.spare_outputs}, weights.source)
    cfg = agree_on_pixels(cfg, weights)
    model = build_model(cfg, initialize=False)
    log_precision(model)
    report = load_weights(model, weights, complete=True)
    logger.info("%s", report)
    if hasattr(model, "convert_weights"):
        model.convert_weights()  # to 16 bits, if MODEL.PRECISION asks for it
    return cfg, model


def open_detector(cfg, weights):
    """Build the detector of trained weights, see :func:`build_trained`, or open the one in an exported file.

    The exported graph contains TRANSFORMS.TEST, so the returned config has none. Changes of the graph are a UserError.
    """
    if weights.session is None:
        return build_trained(cfg, weights)
    cfg = agree_on_classes(cfg, weights.classes, weights.source)
    for entry in explain(cfg):
        is_fixed = entry.path.startswith(("MODEL", "TRANSFORMS.TEST")) and entry.value not in ("auto", "cpu")
        if is_fixed and entry.source not in ("", "default", f"config in {weights.source}"):
            problem = f"{entry.path} {entry.text} would change an exported detector, which runs on the CPU"
            raise UserError(f"{entry.source}: {problem}; export {weights.source} again")
    cfg = override(cfg, {"TRANSFORMS.TEST": [], "EVALUATION.LOSS": False}, weights.source)
    return cfg, OnnxDetector(weights.session, weights.source, len(weights.classes))
