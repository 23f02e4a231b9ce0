"""3 x 3 convolutions by Winograd's algorithm."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from detlite.ops.cpu import is_float32_inference

# F(4 x 4, 3 x 3) of Lavin and Gray 2016: a 4 x 4 tile of outputs is OUTPUT ((WEIGHT w) * (INPUT x)), where x are its
# 6 x 6 inputs. In one dimension:
INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
INPUT += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
WEIGHT = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

# In two dimensions: (36, 36), (36, 9) and (16, 36).
INPUT, WEIGHT, OUTPUT = (torch.kron(matrix, matrix) for matrix in map(torch.tensor, (INPUT, WEIGHT, OUTPUT)))
INPUT, WEIGHT, OUTPUT = INPUT.float(), WEIGHT / 24**2, OUTPUT.float()

FEWEST_TILES = 100  # below, transforming the weights takes longer than it saves
LARGEST_BAND = 2**22  # number of values of transformed inputs per band of tiles


class Conv3x3(nn.Conv2d):
    """nn.Conv2d of 3 x 3 with padding 1, faster for CPU inference with many channels: docs/performance.md.

    Winograd's algorithm multiplies each pair of channels 36 times per 4 x 4 outputs, instead of 144 times. Its rounding
    error is about five times as large, 1e-5 of the largest output.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, images):
        """Convolve: (N, in_channels, H, W) -> (N, out_channels, H, W)."""
        # A graph of any image size, which torch exports, cannot ask for the sizes.
        is_wide = self.in_channels >= 128 and self.out_channels >= 256
        if not is_wide or not is_float32_inference(images, self.weight):
            return super().forward(images)
        num_images, channels, height, width = images.shape
        if num_images * height * width < 16 * FEWEST_TILES:
            return super().forward(images)
        rows, columns = math.ceil(height / 4), math.ceil(width / 4)

        # Tiles of inputs overlap by two: (6, 6, N, rows, columns, in_channels), without a copy.
        padded = F.pad(images, (1, 4 * columns - width + 1, 1, 4 * rows - height + 1)).permute(0, 2, 3, 1)
        tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)

        # Tiles of outputs do not overlap: (4, 4, N, rows, columns, out_channels).
        outputs = images.new_empty(num_images, 4 * rows, 4 * columns, self.out_channels)
        out_tiles = outputs.view(num_images, rows, 4, columns, 4, -1).permute(2, 4, 0, 1, 3, 5)

        # Each of the 36 positions in a transformed tile has its own matrix of weights, (in_channels, out_channels).
        weight = (WEIGHT @ self.weight.permute(0, 2, 3, 1).reshape(-1, 9, channels)).permute(1, 2, 0)
        step = max(1, LARGEST_BAND // (36 * num_images * columns * channels))
        for top in range(0, rows, step):
            products = (INPUT @ tiles[:, :, :, top : top + step].reshape(36, -1)).view(36, -1, channels) @ weight
            target = out_tiles[:, :, :, top : top + step]
            target.copy_((OUTPUT @ products.view(36, -1)).view(target.shape))
            del products  # the next band takes its memory
        return (outputs[:, :height, :width] + self.bias).permute(0, 3, 1, 2)
