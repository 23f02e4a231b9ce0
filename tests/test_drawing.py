"""Names, legends and captions; which boxes of targets and detections are drawn, and where."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from detlite.drawing import GAP, HEADING, LINE, Panel, PictureWriter, color_of, draw_detections, sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
CLASSES = ["circle", "square"]


def gray(height, width):
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def picture_of(*arguments):
    """Return the picture of draw_detections as a tensor (3, H, W)."""
    return pil_to_tensor(draw_detections(*arguments))


def pixels_of(picture, color):
    """Count the pixels of a picture that have a color."""
    return sum(count for count, value in picture.getcolors(picture.width * picture.height) if value == color)


def test_the_heading_is_in_the_sheet_and_not_in_the_picture():
    panel = Panel(gray(400, 500), "a heading")
    assert panel.picture.size == (500, 400)
    assert sheet([panel]).size == (500, HEADING + 400)


@pytest.mark.parametrize("size, shown", [((1, 300), (4000, 13)), ((300, 1), (13, 4000)), ((1, 70000), (30000, 1))])
def test_a_long_and_narrow_image_is_a_picture_that_a_jpeg_file_can_hold(size, shown, tmp_path):
    panel = Panel(gray(*size))
    panel.boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]), [RED], ["name"])
    assert panel.picture.size == shown
    panel.picture.save(tmp_path / "x.jpg")


def test_lines_are_wider_on_a_large_image():
    box = torch.tensor([[100.0, 100.0, 300.0, 300.0]])
    widths = []
    for side in (400, 1600):
        panel = Panel(gray(side, side))
        panel.boxes(box, [RED])
        widths.append(sum(panel.picture.getpixel((x, 200)) == RED for x in range(200)))
    assert widths == [2, 4]


def test_lines_are_at_most_a_tenth_of_a_small_box():
    panel = Panel(gray(2000, 2000))
    panel.boxes(torch.tensor([[100.0, 100.0, 120.0, 160.0]]), [RED])
    assert sum(panel.picture.getpixel((x, 130)) == RED for x in range(110)) == 2  # 20 / 10, where others have 5


def test_names_that_would_cover_much_of_a_picture_are_left_out():
    pixels = {}
    for count in (1, 10, 100):
        panel = Panel(gray(400, 400))
        corners = 30.0 * torch.cartesian_prod(torch.arange(1, 11), torch.arange(1, 11))[:count]
        panel.boxes(torch.cat([corners, corners + 10], dim=1), [RED] * count, ["tree"] * count)
        pixels[count] = pixels_of(panel.picture, RED)
    assert pixels[100] == 100 * 4 * 10  # 11 px a side, each corner once, and no name
    assert pixels[10] > 10 * 4 * 10 + 1000 and pixels[1] > 4 * 10 + 100


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
    height = HEADING + 400
    assert sheet(panels).size == (800 + GAP, height)
    assert sheet(panels, [(RED, "one"), (BLUE, "two")]).size == (800 + GAP, height + 2 * LINE + 8)
    picture = sheet(panels, [(RED, "one")], "first\nsecond " + "word " * 40)
    assert picture.height > height + 4 * LINE and pixels_of(picture, RED) > 100


def test_points_are_scaled_with_the_image():
    panel = Panel(gray(160, 160), short_side=320)
    panel.points(torch.tensor([[20.0, 40.0]]), RED)
    assert panel.picture.getpixel((40, 80)) == RED


def one(box, label=1, score=0.9):
    return {"boxes": torch.tensor([box]), "labels": torch.tensor([label]), "scores": torch.tensor([score])}


@pytest.mark.parametrize(
    ("size", "enlarged"), [((400, 600), (400, 600)), ((320, 350), (320, 350)), ((64, 96), (320, 480))]
)
def test_two_panels_of_at_least_320_pixels_under_a_heading(size, enlarged):
    height, width = enlarged
    picture = picture_of(gray(*size), NOTHING, NOTHING, CLASSES)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, HEADING + height, 2 * width + GAP)
    assert (picture[:, HEADING:, :width] == 128).all()  # nothing to draw, nothing drawn


@pytest.mark.parametrize("scale", [1, 4])
def test_boxes_lie_where_their_pixels_are(scale):
    side = 320 // scale
    box = [100.0 / scale, 200.0 / scale, 180.0 / scale, 240.0 / scale]
    picture = picture_of(gray(side, side), one(box, label=1), one(box, label=2), CLASSES)
    for left, label in ((0, 1), (320 + GAP, 2)):
        panel = picture[:, :, left : left + 320]
        color = torch.tensor(color_of(label), dtype=torch.uint8)[:, None, None]
        drawn = (panel == color).all(dim=0)
        drawn[: HEADING + 200] = False  # the name, above the box
        rows, columns = drawn.nonzero(as_tuple=True)
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (100, HEADING + 200, 180, HEADING + 240)


def test_a_detection_below_the_threshold_is_not_picture_of():
    weak = one([100.0, 100.0, 200.0, 200.0], score=0.4)
    blank = picture_of(gray(320, 320), NOTHING, NOTHING, CLASSES)
    assert torch.equal(picture_of(gray(320, 320), NOTHING, weak, CLASSES), blank)
    assert not torch.equal(picture_of(gray(320, 320), NOTHING, weak, CLASSES, 0.4)[:, HEADING:], blank[:, HEADING:])


def test_the_best_detection_lies_on_top():
    both = {
        "boxes": torch.tensor([[100.0, 100.0, 200.0, 200.0], [100.0, 100.0, 200.0, 200.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.95, 0.6]),
    }
    picture = picture_of(gray(320, 320), NOTHING, both, CLASSES)
    assert picture[:, HEADING + 200, 320 + GAP + 200].tolist() == list(color_of(2))


@pytest.mark.parametrize(
    "box", [[-50.0, -50.0, 900.0, 900.0], [10.0, 10.0, 10.0, 10.0], [30.0, 30.0, 10.0, 20.0], [310.0, 5.0, 319.0, 9.0]]
)
def test_odd_boxes_are_drawn_without_complaint(box):
    assert picture_of(gray(320, 320), one(box), one(box), CLASSES).shape == (3, HEADING + 320, 640 + GAP)


def test_every_class_has_a_color_of_its_own():
    assert len({color_of(label) for label in range(1, 91)}) == 90


def test_the_image_is_left_as_it_was():
    image = gray(320, 320)
    picture_of(image, one([1.0, 2.0, 30.0, 40.0]), NOTHING, CLASSES)
    assert (image == 128).all()


class Images:
    """A data set of 5 gray images with one object each."""

    classes = CLASSES

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return gray(320, 400 + index), one([1.0, 2.0, 30.0, 40.0])


def test_a_saved_picture_reads_back_the_same(tmp_path):
    writer = PictureWriter(Images(), tmp_path / "pictures", 1)
    writer.reset()
    writer.process([{"index": 3, "image_id": 7}], [NOTHING])
    with Image.open(tmp_path / "pictures" / "7.png") as saved:
        assert saved.format == "PNG"
        assert torch.equal(
            pil_to_tensor(saved), picture_of(gray(320, 403), one([1.0, 2.0, 30.0, 40.0]), NOTHING, CLASSES)
        )


@pytest.mark.parametrize(
    ("count", "names"), [(0, []), (3, ["0.png", "1.png", "2.png"]), (9, [f"{n}.png" for n in range(5)])]
)
def test_the_first_images_are_drawn_and_the_first_again_after_a_reset(tmp_path, count, names):
    writer = PictureWriter(Images(), tmp_path / "pictures", count)
    for _ in range(2):
        writer.reset()
        for batch in ([0, 1], [2, 3], [4]):
            writer.process([{"index": n, "image_id": n} for n in batch], [NOTHING] * len(batch))
        assert sorted(path.name for path in tmp_path.glob("pictures/*.png")) == names
        for path in tmp_path.glob("pictures/*.png"):
            path.unlink()
