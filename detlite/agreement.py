"""Check that config, data and weights agree on classes and pixel statistics; build the trained model."""

import logging

from detlite.checkpoint import agree_on_pixels, load_weights
from detlite.config import override
from detlite.data import build_dataset
from detlite.errors import UserError
from detlite.modeling import build_model
from detlite.modeling.precision import log_precision

logger = logging.getLogger("detlite")


def agree_on_classes(cfg, classes, source):
    """Fill in MODEL.CLASSES with class names in the order of their labels, or raise a UserError if it has others.

    ``source`` names the data set or file that has these classes.
    """
    if cfg.MODEL.sources["CLASSES"] == "default":  # neither a file nor the command line sets it
        return override(cfg, {"MODEL.CLASSES": list(classes)}, source)
    if list(cfg.MODEL.CLASSES) != list(classes):
        raise UserError(
            f"{cfg.MODEL.sources['CLASSES']}: MODEL.CLASSES is {list(cfg.MODEL.CLASSES)}, but the classes of {source} "
            f"are {list(classes)}; remove MODEL.CLASSES to use those"
        )
    return cfg


def build_test_dataset(cfg):
    """Build DATASETS.TEST, which must have the model's classes."""
    dataset = build_dataset(cfg.DATASETS.TEST)
    require_model_classes(cfg, dataset)
    return dataset


def require_model_classes(cfg, dataset):
    """Raise a UserError unless a test data set has the model's classes in the same order."""
    classes, expected = list(dataset.classes), list(cfg.MODEL.CLASSES)
    if classes == expected:
        return
    if sorted(classes) == sorted(expected):
        hint = "the same names in another order; set CLASSES of the data set to the model's order"
    else:
        hint = "test data must have the same classes, even if some have no objects"
    raise UserError(f"DATASETS.TEST: its classes are {classes}, the model's are {expected}: {hint}")


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
