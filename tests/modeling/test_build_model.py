import pytest
import torch

from detlite.config import load_config
from detlite.errors import UserError
from detlite.modeling import build as build_module
from detlite.modeling import build_model, choose_device
from detlite.solver import SGD

NETS = {
    "classic": [],
    "BatchNorm": ["MODEL.BACKBONE.NORM", "BatchNorm", "MODEL.RPN.HEAD.OBJECT_PRIOR", "0.1"],
    "resnet": ["MODEL.BACKBONE", {"NAME": "TorchvisionBackbone", "MODEL": "resnet18", "LAYERS": ["layer2"]}],
}


@pytest.fixture
def config():
    def load(net):
        narrow = [] if net == "resnet" else ["MODEL.BACKBONE.WIDTH", 0.0625]
        return load_config(opts=[*NETS[net], *narrow, "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM", 16, "MODEL.DEVICE", "cpu"])

    return load


@pytest.mark.parametrize("net", NETS)
def test_without_random_parameters_it_is_the_same_once_they_are_loaded(net, config):
    """Only values that checkpoints hold are left out. Others, such as pixel means and anchors, are set as usual."""
    initialized, bare = build_model(config(net)), build_model(config(net), initialize=False)
    bare.load_state_dict(initialized.state_dict())
    images = [torch.rand(3, 64, 96)]
    with torch.no_grad():
        for model in (initialized, bare):
            model.eval()
        for expected, found in zip(initialized(images), bare(images), strict=True):
            assert all(torch.equal(expected[name], found[name]) for name in expected)
    for (name, expected), found in zip(initialized.named_buffers(), bare.buffers(), strict=True):
        assert torch.equal(expected, found), name


def test_random_numbers_are_drawn_for_initial_weights_only(config):
    state = torch.manual_seed(0).get_state()
    build_model(config("classic"), initialize=False)
    assert torch.equal(torch.get_rng_state(), state)
    build_model(config("classic"))
    assert not torch.equal(torch.get_rng_state(), state)


def test_auto_is_cuda_or_the_cpu_and_never_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cpu")


def test_a_gpu_that_the_torch_build_has_no_kernels_for_is_one_message(monkeypatch):
    def add_(tensor, other):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.Tensor, "add_", add_)
    with pytest.raises(UserError, match=r"^MODEL.DEVICE: 'cpu' cannot be used here: CUDA error: no kernel image"):
        choose_device("cpu")


def test_an_apple_gpu_is_allowed_with_a_warning(monkeypatch, caplog):
    zeros = torch.zeros(1)
    monkeypatch.setattr(build_module.torch, "zeros", lambda size, device: zeros)
    assert choose_device("mps").type == "mps"
    assert "not tested on Apple GPUs" in caplog.text and "torchvision 0.29" in caplog.text


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_parameters_within_a_prefix_are_frozen_with_their_batch_norm():
    opts = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.WIDTH", 0.0625, "MODEL.BACKBONE.FREEZE_AT", 0]
    opts += ["MODEL.BACKBONE.NORM", "BatchNorm", "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM", 16]
    free = build_model(load_config(opts=opts))
    prefixes = ["backbone.features.1", "rpn", "roi_heads.predictor.deltas.bias"]
    frozen = build_model(load_config(opts=[*opts, "MODEL.FREEZE", prefixes]))
    assert trained_names(free) - trained_names(frozen) == {
        "backbone.features.1.weight",
        "backbone.features.1.bias",
        *(name for name in trained_names(free) if name.startswith("rpn.")),
        "roi_heads.predictor.deltas.bias",
    }
    kinds = [type(frozen.backbone.features[index]).__name__ for index in (1, 4, 10)]
    assert kinds == ["FrozenBatchNorm2d", "BatchNorm2d", "Conv3x3"]


def test_frozen_parameters_stay_the_same_in_a_step_and_all_others_change(narrow_model, make_target):
    model = narrow_model({"MODEL.FREEZE": ["backbone", "rpn.head.conv"]}).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    sum(model([torch.rand(3, 96, 96)], [make_target([[10, 10, 70, 70]], [1])]).values()).backward()
    SGD(model, lr=0.1).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if not name.startswith(("backbone.", "rpn.head.conv."))}


@pytest.mark.parametrize(("prefix", "near"), [("backbones", "backbone"), ("rpn.hea", "rpn.head")])
def test_a_prefix_that_freezes_nothing_is_answered_with_the_nearest(prefix, near, narrow_model):
    with pytest.raises(UserError, match=rf"MODEL.FREEZE: .* no weights in .{prefix}.; did you mean {near}\?"):
        narrow_model({"MODEL.FREEZE": [prefix]})
