import pytest
import torch
from torch import nn

from detlite.ops.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_with_and_without_gradient_it_is_torchs_layer(count, dtype):
    ours, theirs = Linear(20, 5).to(dtype), nn.Linear(20, 5).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(count, 20, dtype=dtype)
    assert torch.equal(ours(features), theirs(features))
    with torch.no_grad():
        found = ours(features)
    assert found.shape == (count, 5) and found.dtype == dtype
    torch.testing.assert_close(found, theirs(features).detach())
