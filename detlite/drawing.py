"""Drawing on images: boxes with names that do not cover each other, headings, legends and captions."""

import colorsys

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

SHORT_SIDE = 320  # smaller images are enlarged to this, so that names can be read
HEADING = 22  # height of the strip above a panel
LINE = 18  # of a legend or caption


class Panel:
    """An image to draw on, in its own pixels; below a heading, if there is one, with a frame around it.

    Args:
        image: (3, H, W) uint8, RGB; it is left as it is.
        heading: text above it.
        short_side: smaller images are enlarged to it.
    """

    def __init__(self, image, heading="", short_side=SHORT_SIDE):
        self.scale = max(1.0, short_side / min(image.shape[-2:]))
        height, width = size = [round(side * self.scale) for side in image.shape[-2:]]
        if self.scale > 1:
            image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0].round().byte()
        self.left, self.top = (1, HEADING) if heading else (0, 0)
        self.pen = max(2, round(min(size) / 400))  # a photograph of 4000 px is looked at from afar
        self.picture = Image.new("RGB", (width + 2 * self.left, height + self.top + self.left), "white")
        self.picture.paste(to_pil_image(image), (self.left, self.top))
        self._canvas = ImageDraw.Draw(self.picture)
        self._font = ImageFont.load_default(6 * self.pen)
        self._taken = []  # where names are
        self._heading = heading
        self._write_heading()

    def _write_heading(self):
        """The heading, over whatever sticks out of the image."""
        if self._heading:
            self._canvas.rectangle((0, 0, self.picture.width, HEADING - 1), fill="white")
            font = ImageFont.load_default(14)
            self._canvas.text((4, HEADING // 2), self._heading, fill="black", font=font, anchor="lm")

    def boxes(self, boxes, colors, names=(), width=None):
        """Draw boxes, the last on top, then their names, each where it covers no other if there is such a place.

        Args:
            boxes: (R, 4), xyxy in the image's pixels.
            colors: for each box (red, green, blue).
            names: for each box a text, perhaps an empty one, or nothing at all.
            width: of the lines; None is the panel's own.
        """
        offset = boxes.new_tensor([self.left, self.top] * 2)
        corners = (boxes * self.scale + offset).view(-1, 2, 2)
        corners = corners.sort(dim=1).values.flatten(1).tolist()  # PIL refuses a box with x2 < x1
        for box, color in zip(corners, colors, strict=True):
            self._canvas.rectangle(box, outline=color, width=width or self.pen)
        self._write_heading()
        for box, color, name in zip(corners, colors, names, strict=False):
            if name:
                self._name(box, color, name)

    def _name(self, box, color, name):
        x1, y1, x2, y2 = box
        _, _, width, height = (side + 3 for side in self._canvas.textbbox((0, 0), name, font=self._font))
        right, bottom = self.picture.width - self.left - width, self.picture.height - self.left - height
        wanted = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2), (x1, y1), (x1, y2 - height)]
        places = [(max(self.left, min(x, right)), max(self.top, min(y, bottom))) for x, y in wanted]
        x, y = next((place for place in places if self._is_free(*place, width, height)), places[0])
        self._taken.append((x, y, x + width, y + height))
        self._canvas.rectangle((x, y, x + width, y + height), fill=color)
        self._canvas.text((x + 2, y + 1), name, fill="black", font=self._font)

    def _is_free(self, x, y, width, height):
        return not any(
            x < right and left < x + width and y < bottom and top < y + height
            for left, top, right, bottom in self._taken
        )

    def points(self, points, color, radius=1):
        """Draw dots at points (R, 2), x and y in the image's pixels."""
        offset = points.new_tensor([self.left, self.top])
        for x, y in (points * self.scale + offset).tolist():
            self._canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def color_of(label):
    """A light color of its own for every label: hues a golden section apart, which keeps neighbors distinct."""
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 1.0))


def colors_of(labels):
    """The color of each label of a (R,) tensor."""
    return [color_of(label) for label in labels.tolist()]


def sheet(panels, legend=(), caption=""):
    """Panels beside each other, below them what their colors mean, and a text.

    Args:
        panels: list of :class:`Panel`.
        legend: list of (color, text).
        caption: paragraphs, each a line.

    Returns:
        PIL image.
    """
    pictures = [panel.picture for panel in panels]
    width, height = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    font = ImageFont.load_default(13)
    swatch = LINE - 5
    rows, x = [[]], 4  # of the legend: (x, color, text)
    for color, text in legend:
        needed = swatch + 5 + round(font.getlength(text)) + 14
        if x > 4 and x + needed > width:
            rows.append([])
            x = 4
        rows[-1].append((x, color, text))
        x += needed
    rows = [row for row in rows if row]
    lines = [line for paragraph in caption.splitlines() for line in _wrap(paragraph, width - 8, font)]
    below = LINE * (len(rows) + len(lines)) + (8 if rows or lines else 0)
    picture = Image.new("RGB", (width, height + below), "white")
    left = 0
    for panel in pictures:
        picture.paste(panel, (left, 0))
        left += panel.width
    draw = ImageDraw.Draw(picture)
    for number, row in enumerate(rows):
        y = height + 5 + LINE * number
        for x, color, text in row:
            draw.rectangle((x, y, x + swatch, y + swatch), fill=color, outline="black")
            draw.text((x + swatch + 5, y + swatch // 2), text, fill="black", font=font, anchor="lm")
    for number, line in enumerate(lines, start=len(rows)):
        draw.text((4, height + 5 + LINE * number), line, fill="black", font=font)
    return picture


def _wrap(text, width, font):
    """The text in lines of at most a width, in pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def draw_detections(image, target, detections, classes, score_threshold=0.5):
    """Draw an image twice: with its ground truth on the left, with its detections on the right.

    Boxes are xyxy in the image's pixels. A small image is enlarged to a short side of 320.

    Args:
        image: (3, H, W) uint8, RGB.
        target: dict with "boxes" (M, 4) and "labels" (M,).
        detections: dict with "boxes" (R, 4), "labels" (R,) and "scores" (R,).
        classes: names; label k is ``classes[k - 1]``.
        score_threshold: detections that score less are not drawn.

    Returns:
        (3, H', W') uint8, RGB.
    """
    left = Panel(image, "ground truth")
    names = [classes[label - 1] for label in target["labels"].tolist()]
    left.boxes(target["boxes"], colors_of(target["labels"]), names)
    right = Panel(image, f"detections, score at least {score_threshold:g}")
    draw_on(right, detections, classes, score_threshold)
    return pil_to_tensor(sheet([left, right]))


def draw_on(panel, detections, classes, score_threshold=0.0):
    """Draw detections that score enough on a panel, the best on top, with name and score; see above."""
    order = detections["scores"].argsort()
    order = order[detections["scores"][order] >= score_threshold]
    boxes, labels, scores = (detections[key][order] for key in ("boxes", "labels", "scores"))
    names = [f"{classes[k - 1]} {score:.2f}" for k, score in zip(labels.tolist(), scores.tolist(), strict=True)]
    panel.boxes(boxes, colors_of(labels), names)


def save_picture(picture, path):
    """Write a (3, H, W) uint8 RGB picture to a file, such as a .png."""
    to_pil_image(picture).save(path)
