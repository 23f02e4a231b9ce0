import pytest
import torch
from torchvision.ops import roi_align, roi_pool

from detlite.errors import UserError
from detlite.modeling.roi_heads.pooler import RoIAlign, RoIPool
from detlite.registry import ROI_POOLERS


def test_max_pooling_reads_x_along_the_width():
    """Each cell holds its column, or its row: the maxima of a wide box's bins are arithmetic."""
    columns = torch.arange(12.0).expand(8, 12)
    rows = torch.arange(8.0)[:, None].expand(8, 12)
    features = torch.stack([columns, rows])[None]
    box = torch.tensor([[16.0 * 2, 16.0 * 3, 16.0 * 9, 16.0 * 4]])  # cells x 2 ... 9, y 3 ... 4
    pooled = RoIPool([16], resolution=2)([features], [box])
    assert pooled.shape == (1, 2, 2, 2)
    assert pooled[0, 0].tolist() == [[5, 9], [5, 9]]
    assert pooled[0, 1].tolist() == [[3, 3], [4, 4]]


def test_averaging_reads_x_along_the_width():
    features = torch.stack([torch.arange(12.0).expand(8, 12), torch.arange(8.0)[:, None].expand(8, 12)])[None]
    box = torch.tensor([[16.0 * 2, 16.0 * 3, 16.0 * 10, 16.0 * 5]])
    pooled = RoIAlign([16], resolution=2)([features], [box])
    # Bins are 4 x 1 cells. The center of cell i is at i + 0.5, so a bin centered at x reads x - 0.5.
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[3.5, 7.5], [3.5, 7.5]]))
    torch.testing.assert_close(pooled[0, 1], torch.tensor([[3.0, 3.0], [4.0, 4.0]]))


@pytest.mark.parametrize("stride", [8, 16])
def test_the_scale_is_one_over_the_stride(stride):
    features, box = [torch.randn(1, 3, 20, 20)], torch.tensor([[10.0, 20, 90, 120]])
    torch.testing.assert_close(RoIPool([stride])(features, [box]), roi_pool(features[0], [box], 7, 1 / stride))
    torch.testing.assert_close(
        RoIAlign([stride], sampling_ratio=0)(features, [box]),
        roi_align(features[0], [box], 7, 1 / stride, sampling_ratio=-1, aligned=True),
    )
    torch.testing.assert_close(
        RoIAlign([stride], aligned=False, resolution=5)(features, [box]),
        roi_align(features[0], [box], 5, 1 / stride, sampling_ratio=2, aligned=False),
    )


@pytest.mark.parametrize("pooler", [RoIPool, RoIAlign])
def test_boxes_are_pooled_from_their_own_image_in_order(pooler):
    features = torch.stack([torch.full((3, 6, 6), value) for value in (1.0, 2.0, 3.0)])
    box = torch.tensor([[8.0, 8, 60, 50]])
    pooled = pooler([16])([features], [box.expand(2, 4), torch.zeros(0, 4), box])
    assert pooled.shape == (3, 3, 7, 7)
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [1, 1, 3]


@pytest.mark.parametrize("pooler", [RoIPool, RoIAlign])
@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_no_boxes_pool_to_nothing_and_gradients_still_flow(pooler, counts):
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    boxes = [torch.tensor([[0.0, 0, 40, 40]]).expand(count, 4) for count in counts]
    pooled = pooler([16])([features], boxes)
    assert pooled.shape == (sum(counts), 3, 7, 7)
    pooled.sum().backward()
    assert [bool(grad.any()) for grad in features.grad] == [bool(count) for count in counts]


@pytest.mark.parametrize("name", ["RoIPool", "RoIAlign"])
def test_several_levels_and_no_cells_are_refused(name):
    with pytest.raises(UserError, match=f"{name} pools from one feature level, got 2"):
        ROI_POOLERS.build({"NAME": name}, [16, 32])
    with pytest.raises(UserError, match="resolution must be from 1 to 256, got 0"):
        ROI_POOLERS.build({"NAME": name, "RESOLUTION": 0}, [16])
