"""Test-time augmentation: boxes of variants return to the image's pixels, and NMS merges them."""

import pytest
import torch
from torchvision.ops import nms

from detlite.cli import main
from detlite.errors import UserError
from detlite.modeling.nms import GreedyNMS, LinearSoftNMS
from detlite.modeling.variants import Variant
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


def test_an_object_is_found_once_over_mirrored_and_scaled_images(narrow_model, monkeypatch):
    def brightest(image):
        """Return the box around white pixels, whose score is the image's width."""
        rows, columns = (image[0] > 127).nonzero(as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        detections = {"boxes": torch.tensor([box]).float(), "scores": torch.tensor([image.shape[2] / 1000])}
        return {**detections, "labels": torch.tensor([2])}

    model = narrow_model({"MODEL.TEST_FLIP": True, "MODEL.TEST_SCALES": [1, 0.5, 2]})
    image = torch.zeros(3, 96, 128)
    image[:, 20:60, 8:48] = 1
    with_detections(model, monkeypatch, lambda pixels: brightest(pixels * 255))
    (found,) = model([image])
    assert found["boxes"].tolist() == [[8, 20, 48, 60]] and found["labels"].tolist() == [2]
    torch.testing.assert_close(found["scores"], torch.tensor([0.256]))  # the largest image's, 256 px wide


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


@pytest.mark.parametrize("scales", [[], [0], [-1.0, 1.0], [float("inf")]])
def test_scales_are_positive_numbers(scales, narrow_model):
    with pytest.raises(UserError, match="test_scales: expected one or more numbers above 0"):
        narrow_model({"MODEL.TEST_SCALES": scales})


def test_an_augmented_detector_is_not_exported(checkpoint, tmp_path, capsys):
    path = checkpoint(MODEL__TEST_FLIP=True)
    assert main(["export", "--weights", str(path), "--output", str(tmp_path / "m.pt2")]) == 1
    expected = "test-time augmentation cannot be exported; set MODEL.TEST_FLIP False and TEST_SCALES [1]"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "m.pt2").exists()
