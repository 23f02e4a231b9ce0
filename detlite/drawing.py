"""Draw boxes, names, legends and captions on images.

Letters: M objects, R boxes or detections. Boxes are (x1, y1, x2, y2) in pixels of the image.
"""

import colorsys
import textwrap

from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from detlite.writing import claim, write_picture

SHORT_SIDE = 320  # smaller images are enlarged to this, so that names can be read
ENLARGED = 4000  # enlarged images have at most this long side, however long and narrow
LONGEST = 30000  # larger images are reduced to this long side; a JPEG, which may hold two, ends at 65,500
HEADING = 22  # height of the strip above the panels of a sheet
MOST_NAMES = 0.15  # of a picture's area; if names would cover more, none is written
GAP = 4  # between two panels
LINE = 18  # height of a line of a legend or caption
LETTER = 7  # width of a letter of a caption
SWATCH = 13  # side of a color's square in a legend


def color_of(label):
    """Return a light color (red, green, blue); nearby labels have distinct hues."""
    # Hues a golden section apart fill the circle evenly, however many labels there are.
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def colors_of(labels):
    """Return the color of each label of an (R,) tensor."""
    return [color_of(label) for label in labels.tolist()]


class Panel:
    """An image to draw on, in its own pixels even if it is enlarged or reduced.

    Args:
        image: (3, H, W) uint8, RGB; it is not changed.
        heading: text above the image in a :func:`sheet`.
        short_side: short side, in pixels, to which a smaller image is enlarged.
    """

    def __init__(self, image, heading="", short_side=SHORT_SIDE):
        self.heading = heading
        height, width = image.shape[-2:]
        self.scale = max(1.0, min(short_side / min(height, width), ENLARGED / max(height, width)))
        self.scale = min(self.scale, LONGEST / max(height, width))
        self.picture = to_pil_image(image)
        if self.scale != 1:
            self.picture = self.picture.resize([max(1, round(side * self.scale)) for side in (width, height)])

        # A photograph of 4000 px is usually viewed reduced, so its lines and letters must be larger.
        self.pen = max(2, round(min(self.picture.size) / 400))
        self._font = ImageFont.load_default(6 * self.pen)
        self._canvas = ImageDraw.Draw(self.picture)
        self._taken = []  # (x1, y1, x2, y2) of each name

    def boxes(self, boxes, colors, names=(), width=None):
        """Draw boxes, the last on top, then names, apart from each other if possible. Too many names are left out.

        Args:
            boxes: (R, 4), xyxy in the image's pixels.
            colors: (red, green, blue) per box.
            names: text per box, which may be empty; the default draws no names.
            width: line width in pixels; None uses the panel's, or less for small boxes.
        """
        # PIL refuses a box with x2 < x1, so both corners are sorted: [R, 4] -> [R, 2, 2] -> [R, 4].
        corners = (boxes * self.scale).view(-1, 2, 2).sort(dim=1).values.flatten(1).tolist()
        for box, color in zip(corners, colors, strict=True):
            thin = max(1, min(self.pen, round(min(box[2] - box[0], box[3] - box[1]) / 10)))
            self._canvas.rectangle(box, outline=color, width=width or thin)
        letters = (self._canvas.textbbox((0, 0), name, font=self._font) for name in names if name)
        covered = sum(right * bottom for _, _, right, bottom in letters)
        if covered > MOST_NAMES * self.picture.width * self.picture.height:
            return

        # Names come after all boxes, so that no line crosses them.
        for box, color, name in zip(corners, colors, names, strict=False):
            if name:
                self._write_name(box, color, name)

    def _write_name(self, box, color, name):
        x1, y1, _, y2 = box
        _, _, width, height = self._canvas.textbbox((0, 0), name, font=self._font)
        width, height = width + 3, height + 3

        # Try above, below and inside the box, moved into the picture. If each place covers a name, write above.
        x = max(0, min(x1, self.picture.width - width))
        for top in (y1 - height, y2, y1, y1 - height):
            y = max(0, min(top, self.picture.height - height))
            patch = x, y, x + width, y + height
            if not any(_overlap(patch, other) for other in self._taken):
                break
        self._taken.append(patch)
        self._canvas.rectangle(patch, fill=color)
        self._canvas.text((x + 2, y + 1), name, fill="black", font=self._font)

    def points(self, points, color, radius=1):
        """Draw dots at points (R, 2), x and y in the image's pixels."""
        for x, y in (points * self.scale).tolist():
            self._canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _overlap(patch, other):
    """Return whether two rectangles (x1, y1, x2, y2) overlap."""
    return patch[0] < other[2] and other[0] < patch[2] and patch[1] < other[3] and other[1] < patch[3]


def sheet(panels, legend=(), caption=""):
    """Return a PIL image of panels with their headings, side by side, above a legend and a caption.

    ``legend`` is a list of (color, text). Each line of ``caption`` is a paragraph.
    """
    # The lines of text decide the height of the picture.
    width = sum(panel.picture.width for panel in panels) + GAP * (len(panels) - 1)
    height = HEADING + max(panel.picture.height for panel in panels)
    lines = []
    for paragraph in caption.splitlines():
        lines += textwrap.wrap(paragraph, width // LETTER)
    count = len(legend) + len(lines)
    picture = Image.new("RGB", (width, height + LINE * count + 8 * bool(count)), "white")

    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    left = 0
    for panel in panels:
        canvas.text((left + 4, HEADING // 2), panel.heading, fill="black", font=font, anchor="lm")
        picture.paste(panel.picture, (left, HEADING))
        left += panel.picture.width + GAP
    y = height + 5
    for color, text in legend:
        canvas.rectangle((4, y, 4 + SWATCH, y + SWATCH), fill=color, outline="black")
        canvas.text((SWATCH + 9, y + SWATCH // 2), text, fill="black", font=font, anchor="lm")
        y += LINE
    for line in lines:
        canvas.text((4, y), line, fill="black", font=font)
        y += LINE
    return picture


def stack(pictures):
    """Return a PIL image of pictures below each other."""
    picture = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        picture.paste(one, (0, top))
        top += one.height
    return picture


def draw_detections(image, target, detections, classes, score_threshold=0.5):
    """Return a PIL image that shows an image's ground truth next to its detections.

    The image is (3, H, W) uint8 RGB. The target has "boxes" (M, 4) and "labels" (M,), and ``detections`` have "scores",
    too. Label k is ``classes[k - 1]``.
    """
    left = Panel(image, "ground truth")
    names = [classes[label - 1] for label in target["labels"].tolist()]
    left.boxes(target["boxes"], colors_of(target["labels"]), names)
    right = Panel(image, f"detections, score at least {score_threshold:g}")
    draw_on(right, detections, classes, score_threshold)
    return sheet([left, right])


def draw_on(panel, detections, classes, score_threshold=0.0, with_names=True):
    """Draw the detections of :func:`draw_detections` on a panel, the best on top, with or without names and scores."""
    order = detections["scores"].argsort()
    order = order[detections["scores"][order] >= score_threshold]
    labels, scores = detections["labels"][order], detections["scores"][order]
    names = [f"{classes[k - 1]} {score:.2f}" for k, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    panel.boxes(detections["boxes"][order], colors_of(labels), names if with_names else ())


class PictureWriter:
    """Writes ``count`` PNG files of the first test images to a folder, called like an evaluator."""

    def __init__(self, dataset, folder, count):
        self.dataset = dataset
        self.folder = folder
        self.count = min(count, len(dataset))

    def reset(self):
        """Start again with the first image."""
        self.drawn = 0

    def process(self, targets, detections):
        """Draw the images of a batch, until all pictures are written."""
        for target, detection in zip(targets, detections, strict=True):
            if self.drawn == self.count:
                return
            image, ground_truth = self.dataset[target["index"]]
            picture = draw_detections(image, ground_truth, detection, self.dataset.classes)
            path = self.folder / f"{target['image_id']}.png"
            claim(path)
            write_picture(picture, path)
            self.drawn += 1
