import pytest
import torch
from torchvision.ops import roi_align

from detlite.modeling.roi_heads.pooler import align_by_products


def random_boxes(count, generator):
    """Boxes around a 20 x 12 map of stride 8: some stick out, some lie wholly outside, one has no area."""
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([260.0, 200.0]) - 50
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 120], dim=1)
    return torch.cat([boxes, torch.tensor([[30.0, 40.0, 30.0, 40.0]])])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_matrix_products_give_torchvisions_roi_align_and_its_gradient(aligned, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 12, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = [random_boxes(40, generator).double(), random_boxes(25, generator).double()]
    upstream = torch.randn(41 + 26, 3, 7, 7, generator=generator, dtype=torch.float64)
    outputs, gradients = [], []
    for align in (align_by_products, roi_align):
        pooled = align(features, boxes, 7, 1 / 8, sampling_ratio, aligned)
        outputs.append(pooled)
        gradients.append(torch.autograd.grad(pooled, features, upstream)[0])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_no_boxes_give_no_regions_and_no_gradient():
    features = torch.randn(2, 3, 12, 20, requires_grad=True)
    pooled = align_by_products(features, [torch.zeros(0, 4), torch.zeros(0, 4)], 7, 1 / 8, 2, True)
    assert pooled.shape == (0, 3, 7, 7)
    assert torch.autograd.grad(pooled.sum(), features)[0].abs().max() == 0
