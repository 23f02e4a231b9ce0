"""The names that others rely on have type hints for every argument and result."""

import inspect

import pytest
import torch

import detlite
import detlite.data
import detlite.evaluation
import detlite.modeling
import detlite.testing
from detlite import registry
from detlite.config import load_config
from detlite.modeling import build_model
from detlite.parts import Registry
from detlite.solver import build_optimizer

PARTS = {
    "BACKBONES": ["VGG"],
    "ANCHOR_GENERATORS": ["GridAnchorGenerator"],
    "RPN_HEADS": ["RPNHead"],
    "MATCHERS": ["MaxIoUMatcher"],
    "SAMPLERS": ["BalancedSampler"],
    "BOX_CODERS": ["DeltaBoxCoder"],
    "BOX_LOSSES": ["SmoothL1Loss"],
    "CLASS_LOSSES": ["CrossEntropyLoss"],
    "ROI_POOLERS": ["RoIPool", "RoIAlign"],
    "BOX_HEADS": ["FCBoxHead"],
    "ROI_HEADS": ["StandardRoIHeads"],
    "META_ARCHITECTURES": ["FasterRCNN"],
}
NAMES = [load_config, build_model, build_optimizer, detlite.train, detlite.test, detlite.Detector, Registry]
NAMES += [getattr(registry, slot).get(name) for slot, names in PARTS.items() for name in names]
for package in (detlite.data, detlite.evaluation):
    NAMES += [getattr(package, name) for name in package.__all__]
NAMES += [value for name, value in vars(detlite.testing).items() if name.startswith(("check_", "config_of"))]


def functions(named):
    """The function, or the methods of a class that its users call: a module's are its constructor and forward."""
    if not isinstance(named, type):
        return [inspect.unwrap(named)]
    owners = [owner for owner in named.__mro__ if owner.__module__.startswith("detlite")]
    members = [item for owner in owners for item in vars(owner).items()]
    special = ("__init__", "__call__", "__len__", "__getitem__", "__iter__", "forward")
    is_module = issubclass(named, torch.nn.Module)
    public = [value for name, value in members if name in special or not (is_module or name.startswith("_"))]
    public = [
        getattr(value, "__func__", getattr(value, "fget", value)) for value in public
    ]  # class methods, properties
    return [value for value in public if inspect.isfunction(value)]


@pytest.mark.parametrize("named", NAMES, ids=lambda named: named.__name__)
def test_every_argument_and_result_has_a_type(named):
    bare = []
    for function in functions(named):
        signature = inspect.signature(function)
        parameters = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
        bare += [f"{function.__qualname__}: {p.name}" for p in parameters if p.annotation is p.empty]
        if signature.return_annotation is signature.empty and function.__name__ != "__init__":
            bare.append(f"{function.__qualname__}: the result")
    assert not bare
