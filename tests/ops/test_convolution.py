import pytest
import torch
from torch import nn

from detlite.ops import convolution
from detlite.ops.convolution import Conv3x3


@pytest.fixture
def plain_calls(monkeypatch):
    """Count the calls of torch's convolution: none where Winograd's algorithm computes."""
    calls = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, images: calls.append(1) or plain(self, images))
    return calls


def make(images, in_channels=128, out_channels=256):
    layer = Conv3x3(in_channels, out_channels)
    exact = nn.functional.conv2d(images.double(), layer.weight.double(), layer.bias.double(), padding=1).detach()
    return layer, exact


@pytest.mark.parametrize("shape", [(1, 40, 40), (1, 37, 51), (3, 23, 30), (2, 1, 900), (2, 900, 1)])
@pytest.mark.parametrize("values", [2**22, 1])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_without_gradient_large_maps_are_torchs_convolution(shape, values, memory_format, plain_calls, monkeypatch):
    monkeypatch.setattr(convolution, "LARGEST_BAND", values)
    count, height, width = shape
    images = torch.randn(count, 128, height, width).contiguous(memory_format=memory_format)
    layer, exact = make(images)
    with torch.no_grad():
        found = layer(images)
    assert not plain_calls and found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - exact).abs().max() < 3e-5 * exact.abs().max()


def test_new_weights_are_seen_at_once(plain_calls):
    images = torch.randn(1, 128, 40, 40)
    layer, _ = make(images)
    with torch.no_grad():
        layer(images)
        layer.weight.data.mul_(2)
        layer.bias.data.mul_(2)
        expected = nn.functional.conv2d(images, layer.weight, layer.bias, padding=1)
        assert (layer(images) - expected).abs().max() < 3e-5 * expected.abs().max()
    assert not plain_calls


@pytest.mark.parametrize(
    ("size", "channels"),
    [(16, (128, 256)), (40, (64, 256)), (40, (128, 128))],
    ids=["small", "few inputs", "few outputs"],
)
def test_where_it_would_be_slower_torchs_convolution_computes(size, channels, plain_calls):
    with torch.no_grad():
        Conv3x3(*channels)(torch.randn(1, channels[0], size, size))
    assert plain_calls


def test_gradients_bf16_and_float64_are_torchs(plain_calls):
    images = torch.randn(1, 128, 40, 40)
    layer = Conv3x3(128, 256)
    layer(images).sum().backward()
    with torch.no_grad():
        assert layer.double()(images.double()).dtype == torch.float64
        assert layer.bfloat16()(images.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(images).dtype == torch.bfloat16
    assert len(plain_calls) == 4


def test_no_images_give_no_outputs():
    with torch.no_grad():
        assert Conv3x3(128, 256)(torch.randn(0, 128, 40, 40)).shape == (0, 256, 40, 40)
