"""The classes and pixels on which config, data and weights must agree, and the trained model that results."""

import logging

from detlite.checkpoint import agree_on_pixels, load_weights
from detlite.config import override
from detlite.data import build_dataset
from detlite.errors import UserError
from detlite.modeling import build_model

logger = logging.getLogger("detlite")


def agree_on_classes(cfg, classes, source):
    """Return the config with MODEL.CLASSES set to the classes of ``source``, if no layer sets MODEL.CLASSES.

    Args:
        cfg: the config.
        classes: class names, in the order of their labels.
        source: name of the data set or file that has these classes, for the message.

    Raises:
        UserError: a layer sets other classes.
    """
    if cfg.MODEL.sources["CLASSES"] == "default":
        return override(cfg, {"MODEL.CLASSES": list(classes)}, source)
    if list(cfg.MODEL.CLASSES) != list(classes):
        raise UserError(
            f"{cfg.MODEL.sources['CLASSES']}: MODEL.CLASSES is {list(cfg.MODEL.CLASSES)}, but the classes of {source} "
            f"are {list(classes)}; leave MODEL.CLASSES out to take those"
        )
    return cfg


def build_test_dataset(cfg):
    """Build DATASETS.TEST.

    Raises:
        UserError: it cannot be read, or its classes are not the model's.
    """
    dataset = build_dataset(cfg.DATASETS.TEST)
    require_model_classes(cfg, dataset)
    return dataset


def require_model_classes(cfg, dataset):
    """Check that a test data set has the model's classes in the same order.

    Raises:
        UserError: it has others.
    """
    classes, expected = list(dataset.classes), list(cfg.MODEL.CLASSES)
    if classes == expected:
        return
    if sorted(classes) == sorted(expected):
        remedy = "the same names in another order; set CLASSES of the data set to fix the order"
    else:
        remedy = "test data must have the same classes, but need not hold objects of each"
    raise UserError(f"DATASETS.TEST: its classes are {classes}, the model's are {expected}: {remedy}")


def build_trained(cfg, weights):
    """Build the detector that a config describes, with trained weights.

    Args:
        cfg: what :func:`detlite.config.load_config` returned.
        weights: what :func:`detlite.checkpoint.read_weights` returned. It must have all of the detector's parameters.

    Returns:
        (config, model): the config has the weights' classes and pixel statistics where no layer sets them.

    Raises:
        UserError: the weights do not fit the config.
    """
    if weights.classes:
        cfg = agree_on_classes(cfg, weights.classes, weights.source)
    cfg = agree_on_pixels(cfg, weights)
    model = build_model(cfg, initialize=False)
    logger.info("%s", load_weights(model, weights, complete=True))
    if hasattr(model, "convert_weights"):
        model.convert_weights()
    return cfg, model
