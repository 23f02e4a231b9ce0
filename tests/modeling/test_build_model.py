import pytest
import torch

from detlite.config import load_config
from detlite.modeling import build_model

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
