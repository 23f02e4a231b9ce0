import functools

import pytest
import torch
import torchvision
from torchvision.ops import roi_align, roi_pool

from detlite.modeling.roi_heads.pooler import RoIPool
from detlite.ops import roi_pooling
from detlite.ops.roi_pooling import roi_align_cpu, roi_pool_cpu


def random_boxes(count, generator):
    """Return boxes around a 20 x 12 map of stride 8: some leave it, some are wholly outside, one has no area."""
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([260.0, 200.0]) - 50
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 120], dim=1)
    return torch.cat([boxes, torch.tensor([[30.0, 40.0, 30.0, 40.0]])])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_bags_of_cells_give_torchvisions_roi_align_and_its_gradient(aligned, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 12, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = [random_boxes(40, generator).double(), random_boxes(25, generator).double()]
    upstream = torch.randn(41 + 26, 3, 7, 7, generator=generator, dtype=torch.float64)
    outputs, gradients = [], []
    for align in (roi_align_cpu, roi_align):
        pooled = align(features, boxes, 7, 1 / 8, sampling_ratio, aligned)
        outputs.append(pooled)
        gradients.append(torch.autograd.grad(pooled, features, upstream)[0])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
def test_maps_of_a_cell_or_a_row_are_aligned_and_pooled_too(size):
    generator = torch.Generator().manual_seed(0)
    features, boxes = torch.randn(1, 4, *size, generator=generator), [random_boxes(60, generator)]
    torch.testing.assert_close(
        roi_align_cpu(features, boxes, 7, 1 / 8, 2, True), roi_align(features, boxes, 7, 1 / 8, 2, True)
    )
    assert torch.equal(roi_pool_cpu(features, boxes, 7, 1 / 8), roi_pool(features, boxes, 7, 1 / 8))


@pytest.mark.parametrize("resolution", [1, 2, 7])
def test_tables_of_maxima_give_torchvisions_roi_pool_to_the_bit(resolution):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 3, 12, 20, generator=generator)
    boxes = [random_boxes(300, generator), torch.zeros(0, 4), random_boxes(200, generator)]
    boxes[2][:100] = boxes[2][:100].round() + 4  # borders at halves of a cell, of both signs
    expected = roi_pool(features, boxes, resolution, 1 / 8)
    assert torch.equal(roi_pool_cpu(features, boxes, resolution, 1 / 8), expected)
    assert (expected == 0).any()  # bins without a cell


@pytest.mark.parametrize("pool", [roi_pooling.roi_pool, functools.partial(roi_pooling.roi_align, sampling_ratio=2)])
def test_the_first_fully_connected_layer_need_not_copy_the_regions(pool):
    features = torch.randn(2, 3, 12, 20).contiguous(memory_format=torch.channels_last)
    pooled = pool(features, [torch.rand(5, 4) * 90, torch.rand(3, 4) * 90], 7, 1 / 8)
    assert pooled.flatten(1).data_ptr() == pooled.data_ptr()


def test_a_table_that_would_be_too_large_is_not_made(monkeypatch):
    features, boxes = torch.randn(1, 3, 12, 20), [torch.tensor([[0.0, 0, 160, 96]])]
    monkeypatch.setattr(roi_pooling, "LARGEST_TABLE", 12 * 20 * 3)
    assert roi_pool_cpu(features, boxes, 2, 1 / 8) is None
    torch.testing.assert_close(RoIPool([8], resolution=2)([features], boxes), roi_pool(features, boxes, 2, 1 / 8))


def test_no_boxes_give_no_regions_and_no_gradient():
    features = torch.randn(2, 3, 12, 20, requires_grad=True)
    none = [torch.zeros(0, 4), torch.zeros(0, 4)]
    pooled = roi_align_cpu(features, none, 7, 1 / 8, 2, True)
    assert pooled.shape == (0, 3, 7, 7)
    assert torch.autograd.grad(pooled.sum(), features)[0].abs().max() == 0
    assert roi_pool_cpu(features.detach(), none, 7, 1 / 8).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("name", ["roi_pool", "roi_align"])
def test_boxes_are_given_as_torchvision_takes_them(name):
    generator = torch.Generator().manual_seed(0)
    features, boxes = torch.randn(2, 3, 12, 20, generator=generator), random_boxes(20, generator)
    ours, theirs = getattr(roi_pooling, name), getattr(torchvision.ops, name)
    rois = torch.cat([torch.ones(len(boxes), 1), boxes], dim=1)  # all in the second image
    for given in ([boxes[:0], boxes], (boxes[:0], boxes), rois):
        torch.testing.assert_close(ours(features, given, 7, 1 / 8), theirs(features, rois, 7, 1 / 8))
