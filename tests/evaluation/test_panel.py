"""Where names go, and what stands below a picture."""

import torch

from detlite.evaluation.panel import HEADING, LINE, Panel, sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def gray(height, width):
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def pixels_of(picture, color):
    """How many pixels of a picture have a color."""
    return sum(count for count, value in picture.getcolors(picture.width * picture.height) if value == color)


def test_without_a_heading_the_picture_is_the_image():
    assert Panel(gray(400, 500)).picture.size == (500, 400)
    assert Panel(gray(400, 500), "a heading").picture.size == (502, 400 + HEADING + 1)


def test_lines_are_wider_on_a_large_image():
    box = torch.tensor([[100.0, 100.0, 300.0, 300.0]])
    widths = []
    for side in (400, 1600):
        panel = Panel(gray(side, side))
        panel.boxes(box, [RED])
        widths.append(sum(panel.picture.getpixel((x, 200)) == RED for x in range(200)))
    assert widths == [2, 4]


def test_names_of_boxes_in_one_place_do_not_cover_each_other():
    box = torch.tensor([[100.0, 100.0, 200.0, 200.0]])
    apart, together = Panel(gray(400, 400)), Panel(gray(400, 400))
    apart.boxes(box, [RED], ["name"])
    together.boxes(box.repeat(2, 1), [RED, BLUE], ["name", "name"], width=1)
    alone = Panel(gray(400, 400))
    alone.boxes(box, [RED], ["name"], width=1)
    red = pixels_of(alone.picture, RED)
    outline = 4 * 100
    assert pixels_of(together.picture, RED) >= red - outline  # the blue box hides the red line, not the red name


def test_a_name_stays_within_the_picture():
    panel = Panel(gray(400, 400))
    panel.boxes(torch.tensor([[390.0, 0.0, 400.0, 400.0]]), [RED], ["a rather long name"], width=1)
    name_pixels = [x for x in range(400) if panel.picture.getpixel((x, 2)) == RED]
    assert min(name_pixels) < 330 and max(name_pixels) < 400


def test_legend_and_caption_take_as_many_lines_as_they_need():
    panels = [Panel(gray(400, 400), "left"), Panel(gray(400, 400), "right")]
    height = panels[0].picture.height
    assert sheet(panels).size == (804, height)
    assert sheet(panels, [(RED, "one"), (BLUE, "two")]).size == (804, height + LINE + 8)
    assert sheet(panels, [(RED, "a long text " * 8), (BLUE, "a long text " * 8)]).height == height + 2 * LINE + 8
    picture = sheet(panels, [(RED, "one")], "first\nsecond " + "word " * 40)
    assert picture.height > height + 4 * LINE and pixels_of(picture, RED) > 100


def test_points_are_scaled_with_the_image():
    panel = Panel(gray(160, 160), short_side=320)
    panel.points(torch.tensor([[20.0, 40.0]]), RED)
    assert panel.picture.getpixel((40, 80)) == RED
