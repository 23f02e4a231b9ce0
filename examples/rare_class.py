"""A custom data set with a rare class: the quick start's shapes, with 1 circle per 50 other objects.

detlite compare --config-file detlite:quickstart --import examples/rare_class.py --seeds 0 1 2 \
    --variants examples/rare_class.yaml DATASETS.TRAIN.0.NAME RareCircleDataset
"""

from detlite.data.datasets.shapes import ShapesDataset
from detlite.registry import DATASETS


@DATASETS.register()
class RareCircleDataset(ShapesDataset):
    """Shapes with few circles. Images with circles are left out until enough other objects are there.

    Args:
        others_per_circle: number of squares and triangles per circle.
    """

    def __init__(self, *, num_images: int = 1000, image_size: int = 128, seed: int = 0, others_per_circle: int = 50):
        super().__init__(num_images=num_images, image_size=image_size, seed=seed)
        self.indices = []  # of the images of ShapesDataset, in increasing order
        circles = others = index = 0
        while len(self.indices) < num_images:
            labels = super()._draw(index)[2]
            new_circles = (labels == 1).sum()
            others_here = len(labels) - new_circles
            if new_circles == 0 or (circles + new_circles) * others_per_circle <= others + others_here:
                self.indices.append(index)
                circles += new_circles
                others += others_here
            index += 1

    def _draw(self, index):
        """Return each pixel's object, boxes, labels and generator of image ``index``."""
        return super()._draw(self.indices[index])
