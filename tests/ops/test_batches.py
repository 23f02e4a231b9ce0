import torch

from detlite.ops.batches import batch_images


def test_images_lie_at_the_top_left_and_zeros_fill_the_rest():
    wide, high = torch.rand(3, 20, 33) + 1, torch.rand(3, 25, 10) + 1
    batch = batch_images([wide, high], divisor=16)
    assert batch.shape == (2, 3, 32, 48)
    assert torch.equal(batch[0, :, :20, :33], wide) and torch.equal(batch[1, :, :25, :10], high)
    assert batch[0].count_nonzero() == wide.numel() and batch[1].count_nonzero() == high.numel()


def test_images_of_one_size_that_need_no_padding_are_stacked():
    images = [torch.rand(3, 32, 16), torch.rand(3, 32, 16)]
    assert torch.equal(batch_images(images, divisor=16), torch.stack(images))


def test_one_image_is_padded_to_the_divisor():
    assert batch_images([torch.ones(3, 1, 17)], divisor=16).shape == (1, 3, 16, 32)


def test_the_dtype_stays():
    assert batch_images([torch.ones(3, 5, 5, dtype=torch.float16)], divisor=4).dtype == torch.float16
