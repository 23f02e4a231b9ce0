"""Test-time augmentation and tiles: boxes of variants return to the image's pixels, and NMS merges them."""

import itertools

import pytest
import torch
from torchvision.ops import nms

from detlite.cli import main
from detlite.errors import UserError
from detlite.modeling.nms import GreedyNMS, LinearSoftNMS
from detlite.modeling.variants import Variant
from detlite.ops.tiles import cut_tiles
from detlite.prediction.detector import Detector

IMAGE = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
FLIP = {"MODEL.TEST_FLIP": True}
FOUND = {
    "boxes": torch.tensor([[10.0, 20, 50, 60], [10, 20, 50, 50], [60, 5, 100, 25]]),  # IoU 3 / 4 of the first two
    "scores": torch.tensor([0.8, 0.4, 0.6]),
    "labels": torch.tensor([1, 1, 3]),
    "class_scores": torch.tensor([[0.8, 0.1, 0], [0.4, 0.1, 0], [0.1, 0, 0.6]]),
}


def mirror(boxes):
    """Mirror boxes in IMAGE, which is 128 px wide."""
    return boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([128, 0, 128, 0])


def with_detections(model, monkeypatch, detect):
    """Replace what a detector does with features by ``detect``: images -> detections."""
    monkeypatch.setattr(model, "features", lambda images: images)
    monkeypatch.setattr(model, "detections_from_features", lambda images, sizes: list(map(detect, images)))
    return model.eval()


def test_a_variants_boxes_return_to_the_images_pixels():
    detections = {"boxes": torch.tensor([[4.0, 10, 20, 30]]), "scores": torch.ones(1)}
    Variant(0.5, True).restore(detections, (48, 64), (96, 128))
    assert detections["boxes"].tolist() == [[88, 20, 120, 60]]  # 2 * (64 - 20), 2 * 10, 2 * (64 - 4), 2 * 30
    assert Variant(0.5, True).change(IMAGE).shape == (3, 48, 64)
    assert torch.equal(Variant(1.0, True).change(IMAGE), IMAGE.flip(2))


def brightest(image):
    """Return the box around white pixels, if any, whose score is the image's width. The proposal is the whole image."""
    rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
    proposal = torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]])
    found = {"boxes": torch.tensor([box]).float(), "scores": torch.tensor([image.shape[2] / 1000])}
    found["labels"] = torch.tensor([2])
    return {name: values[: len(rows)] for name, values in found.items()} | {"proposals": proposal}


def test_an_object_is_found_once_over_mirrored_and_scaled_images(narrow_model, monkeypatch):
    model = narrow_model({"MODEL.TEST_FLIP": True, "MODEL.TEST_SCALES": [1, 0.5, 2]})
    image = torch.zeros(3, 96, 128)
    image[:, 20:60, 8:48] = 1
    with_detections(model, monkeypatch, brightest)
    (found,) = model([image])
    assert found["boxes"].tolist() == [[8, 20, 48, 60]] and found["labels"].tolist() == [2]
    torch.testing.assert_close(found["scores"], torch.tensor([0.256]))  # the largest image's, 256 px wide


def test_an_object_in_a_tiles_border_is_found_once_and_whole(narrow_model, monkeypatch):
    """Three tiles of 100 px overlap by 30 px, from 0, 70 and 140; the object is 20 px wide and 90 px high."""
    model = narrow_model({"MODEL.TEST_TILE": 100, "MODEL.TEST_TILE_OVERLAP": 30, "MODEL.ROI_HEADS.NMS.IOU": 0.9})
    sizes = []
    with_detections(model, monkeypatch, lambda pixels: sizes.append(tuple(pixels.shape[1:])) or brightest(pixels))
    for x1 in range(0, 221, 3):
        image = torch.zeros(3, 96, 240)
        image[:, 3:93, x1 : x1 + 20] = 1
        (found,) = model([image], extras=["proposals"])
        assert found["boxes"].tolist() == [[x1, 3, x1 + 20, 93]] and found["labels"].tolist() == [2]
    assert set(sizes) == {(96, 100)} and len(sizes) == 3 * 74
    assert found["proposals"].tolist() == [[0, 0, 100, 96], [70, 0, 170, 96], [140, 0, 240, 96]]


def test_an_object_where_four_tiles_meet_is_found_once_and_whole(narrow_model, monkeypatch):
    """Four tiles of 100 px, from 0 and 70, overlap by 30 px; an object of 20 px is moved over their corners."""
    model = narrow_model({"MODEL.TEST_TILE": 100, "MODEL.TEST_TILE_OVERLAP": 30, "MODEL.ROI_HEADS.NMS.IOU": 0.9})
    with_detections(model, monkeypatch, brightest)
    for x1, y1 in itertools.product(range(40, 111, 10), (45, 66, 74, 79, 83, 100)):
        image = torch.zeros(3, 170, 170)
        image[:, y1 : y1 + 20, x1 : x1 + 20] = 1
        (found,) = model([image])
        assert found["boxes"].tolist() == [[x1, y1, x1 + 20, y1 + 20]]


def test_an_object_larger_than_the_overlap_is_found_in_part_and_not_lost(narrow_model, monkeypatch):
    model = narrow_model({"MODEL.TEST_TILE": 100, "MODEL.TEST_TILE_OVERLAP": 30, "MODEL.ROI_HEADS.NMS.IOU": 0.9})
    image = torch.zeros(3, 96, 240)
    image[:, 3:93, 60:180] = 1
    with_detections(model, monkeypatch, brightest)
    (found,) = model([image])
    assert sorted(found["boxes"][:, [0, 2]].tolist()) == [[60, 100], [70, 170], [140, 180]]


def test_tiles_cover_an_image_and_overlap():
    for length in range(50, 400):
        tiles = cut_tiles((30, length), 100, 30)
        assert tiles[0][0] == 0 and tiles[-1][2] == length
        assert {(y1, y2, x2 - x1) for x1, y1, x2, y2 in tiles} == {(0, 30, min(100, length))}
        assert all(left[2] - right[0] >= 30 for left, right in zip(tiles, tiles[1:], strict=False))
        assert len(tiles) == max(1, -(-(length - 30) // 70))  # a tile adds 70 px to the last one's 30


def test_an_image_that_fits_in_a_tile_is_detected_as_a_whole(narrow_model):
    keys = {"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.2, "MODEL.RPN.POST_NMS_TOP_N_TEST": 8}
    found = []
    for tile in (0, 128):
        torch.manual_seed(0)
        with torch.no_grad():
            found += narrow_model(keys | {"MODEL.TEST_TILE": tile, "MODEL.TEST_TILE_OVERLAP": 0}).eval()([IMAGE])
    assert len(found[0]["boxes"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in ("boxes", "scores", "labels"))


@pytest.mark.parametrize("part", [GreedyNMS(iou=0.5), LinearSoftNMS(iou=0.5, min_score=0.01)])
def test_of_a_detector_that_finds_the_same_in_mirrored_images_nothing_changes(part, narrow_model, monkeypatch):
    """The second box is dropped, or its score becomes 0.4 * (1 - 3 / 4) = 0.1, once and not once per variant."""

    def symmetric(image):
        found = {name: value.clone() for name, value in FOUND.items()}
        if not torch.equal(image, IMAGE):
            found["boxes"] = mirror(found["boxes"])
        keep, found["scores"] = part(found["boxes"], found["scores"], found["labels"], 9)
        return {name: values if name == "scores" else values[keep] for name, values in found.items()}

    model = with_detections(narrow_model(FLIP), monkeypatch, symmetric)
    monkeypatch.setattr(model.roi_heads, "nms", part)
    (found,) = model([IMAGE], extras=["class_scores"])
    scores = [0.8, 0.6, 0.1] if isinstance(part, LinearSoftNMS) else [0.8, 0.6]
    torch.testing.assert_close(found["scores"], torch.tensor(scores))
    for name, value in symmetric(IMAGE).items():
        assert torch.equal(found[name], value), name


def test_the_merged_detections_are_all_variants_after_nms_per_class(narrow_model):
    keys = {"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.2, "MODEL.RPN.POST_NMS_TOP_N_TEST": 8}
    model = narrow_model(keys).eval()
    with torch.no_grad():
        (plain,), (mirrored,) = model([IMAGE]), model([IMAGE.flip(2)])
        torch.manual_seed(0)
        (found,) = narrow_model(keys | FLIP).eval()([IMAGE])
    mirrored["boxes"] = mirror(mirrored["boxes"])
    boxes, scores, labels = (torch.cat([plain[name], mirrored[name]]) for name in ("boxes", "scores", "labels"))
    kept = []
    for label in (1, 2, 3):
        of_class = (labels == label).nonzero().flatten()
        kept += of_class[nms(boxes[of_class], scores[of_class], 0.3)].tolist()
    kept.sort(key=lambda index: -scores[index])
    assert len(plain["scores"]) < len(kept) < 100
    assert set(found) == {"boxes", "scores", "labels"}
    torch.testing.assert_close(found["scores"], scores[kept], atol=0, rtol=0)
    torch.testing.assert_close(found["boxes"], boxes[kept], atol=1e-4, rtol=0)


def test_without_augmentation_images_are_detected_once_and_unchanged(narrow_model, monkeypatch):
    monkeypatch.setattr(Variant, "change", None)
    monkeypatch.setattr("detlite.modeling.faster_rcnn.merge", None)
    (found,) = narrow_model({"MODEL.TEST_FLIP": False, "MODEL.TEST_SCALES": [1]}).eval()([IMAGE])
    assert set(found) == {"boxes", "scores", "labels"}


def test_a_checkpoints_detector_is_augmented_by_keys(checkpoint, monkeypatch):
    keys = ["MODEL.TEST_FLIP", True, "MODEL.TEST_SCALES", [1, 0.5]]
    detector = Detector.from_checkpoint(checkpoint(), opts=keys, device="cpu")
    shapes = []
    with_detections(detector.model, monkeypatch, lambda image: shapes.append(tuple(image.shape)) or dict(FOUND))
    assert detector(IMAGE, class_scores=True)["class_scores"].shape[1] == 3
    assert shapes == [(3, 96, 128)] * 2 + [(3, 48, 64)] * 2


@pytest.mark.parametrize("tile, overlap", [(100, 100), (100, -1), (-1, 0)])
def test_tiles_are_larger_than_their_overlap(tile, overlap, narrow_model):
    with pytest.raises(UserError, match=f"need 0 <= test_tile_overlap < test_tile, got {overlap} and {tile}"):
        narrow_model({"MODEL.TEST_TILE": tile, "MODEL.TEST_TILE_OVERLAP": overlap})


@pytest.mark.parametrize("scales", [[], [0], [-1.0, 1.0], [float("inf")]])
def test_scales_are_positive_numbers(scales, narrow_model):
    with pytest.raises(UserError, match="test_scales: expected one or more numbers above 0"):
        narrow_model({"MODEL.TEST_SCALES": scales})


def test_an_augmented_detector_is_not_exported(checkpoint, tmp_path, capsys):
    path = checkpoint(MODEL__TEST_FLIP=True)
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "m.pt2")]) == 1
    expected = "cannot be exported; set MODEL.TEST_FLIP False, TEST_SCALES [1] and TEST_TILE 0"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "m.pt2").exists()
