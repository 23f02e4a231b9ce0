import pytest
import torch
from torch.nn import functional as F

from detlite.ops.max_pool import max_pool


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 3), (1, 5)])
def test_values_and_gradients_are_torchs_also_where_inputs_are_equal(size, layout):
    if 1 in size:  # torch refuses an output without cells; here, a feature level may be empty
        images = torch.rand(1, 3, *size, requires_grad=True)
        assert max_pool(images).shape == (1, 3, 0, 2)
        return
    values = torch.randint(0, 3, (2, 3, *size)).float().to(memory_format=layout)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    pooled, expected = max_pool(ours), F.max_pool2d(theirs, 2)
    gradient = torch.randn(expected.shape)
    pooled.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(pooled, expected)
    assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(max_pool(values.clone(), overwrite=True), expected)
