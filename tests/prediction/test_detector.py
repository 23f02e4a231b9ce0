import json
import operator
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

import detlite
from detlite.cli import main
from detlite.data import ShapesDataset
from detlite.data.transforms import RandomHorizontalFlip
from detlite.errors import UserError
from detlite.prediction.detector import Detector, prepare_image
from detlite.seeding import random_state

sys.path.append(str(Path(__file__).parent))
from detect_in_threads import build_detector, count_differences

RESIZE = [{"NAME": "ResizeShortSide", "SIZE": 48, "MAX_SIZE": 96}]
EXIF_ORIENTATION, ROTATED_RIGHT = 0x0112, 6


@pytest.fixture
def detector(checkpoint):
    return Detector.from_checkpoint(checkpoint(TRANSFORMS__TEST=RESIZE), device="cpu")


@pytest.fixture
def images():
    """Three images, two of one size."""
    first, second, third = (ShapesDataset(image_size=80, seed=3)[index][0] for index in range(3))
    return [first[:, :60], second, third[:, :60]]


def assert_equal(first, second, **tolerance):
    assert first.keys() == second.keys() and first["names"] == second["names"]
    for name in first.keys() - {"names"}:
        torch.testing.assert_close(first[name], second[name], **tolerance)


def test_the_package_itself_has_it():
    assert detlite.Detector is Detector
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        operator.attrgetter("Detecter")(detlite)


def test_results_are_torchvision_s_dicts_with_names_in_the_given_image_s_pixels(detector, images):
    (result,) = detector(images[:1])
    assert list(result) == ["boxes", "scores", "labels", "names"]
    count = len(result["names"])
    assert count and result["boxes"].shape == (count, 4) and result["boxes"].dtype == torch.float32
    assert result["names"] == [detector.classes[label - 1] for label in result["labels"]]
    assert (result["scores"].diff() <= 0).all()
    assert result["boxes"][:, 2].max() <= 80 and 48 < result["boxes"][:, 3].max() <= 60  # not of the resized 48 x 64


def test_opts_may_set_the_device(checkpoint):
    with pytest.raises(UserError, match="MODEL.DEVICE"):
        Detector.from_checkpoint(checkpoint(), opts=["MODEL.DEVICE", "cuda:99"])


def test_boxes_of_the_resized_image_are_scaled_back(checkpoint, images):
    resized = Detector.from_checkpoint(checkpoint(TRANSFORMS__TEST=RESIZE), device="cpu")
    plain = Detector.from_checkpoint(checkpoint(), device="cpu")
    prepared = prepare_image(images[0], resized.transforms)
    assert prepared.image.shape == (3, 48, 64) and prepared.size == (60, 80)
    inside = plain(prepared.image)
    torch.testing.assert_close(resized(images[0])["boxes"], inside["boxes"] * (80 / 64))


def test_paths_pil_arrays_and_tensors_of_one_image_give_the_same(detector, images, tmp_path):
    image = images[0]
    pil = to_pil_image(image)
    pil.save(tmp_path / "a.png")
    array = np.asarray(pil)
    expected = detector(image)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), pil, array, pil.convert("RGBA")):
        assert_equal(detector(same), expected)
    for same in (array[:, :, ::-1], image.flip(0)):
        assert_equal(detector(same, channel_order="BGR"), expected)
    assert not torch.equal(detector(array[:, :, ::-1])["scores"], expected["scores"])
    assert_equal(detector(array.astype(np.float32) / 255), detector(image / 255))
    assert_equal(detector(array[:, :, 0]), detector(image[:1].expand(3, -1, -1)))


def test_one_gives_one_and_several_give_a_list(detector, images):
    assert isinstance(detector(images[0]), dict)
    assert [isinstance(result, dict) for result in detector(images)] == [True] * 3
    assert len(detector(torch.stack([images[0], images[2]]))) == 2
    assert len(detector(np.zeros((2, 40, 50, 3), np.uint8))) == 2
    assert len(detector(image for image in images)) == 3
    assert detector([]) == []


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_batch_gives_what_its_images_give_alone(detector, images, batch_size):
    alone = [detector(image) for image in images]
    detector.batch_size = batch_size
    for result, expected in zip(detector(images), alone, strict=True):
        assert_equal(result, expected, atol=1e-4, rtol=1e-5)


def test_images_of_one_size_share_a_batch_and_others_do_not(detector, images, monkeypatch):
    shapes = []
    forward = type(detector.model).forward
    monkeypatch.setattr(
        type(detector.model),
        "forward",
        lambda self, batch: shapes.append([tuple(image.shape[1:]) for image in batch]) or forward(self, batch),
    )
    detector.batch_size = 2
    detector(images)
    assert shapes == [[(48, 64), (48, 64)], [(48, 48)]]
    shapes.clear()
    detector(torch.zeros(3, 48, 48 + width, dtype=torch.uint8) for width in range(20))
    assert len(shapes) == 20  # many sizes, and no more than four batches' worth waits


def test_a_file_is_turned_upright_and_a_pil_image_taken_as_it_lies(detector, images, tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED_RIGHT
    to_pil_image(images[0].rot90(1, (1, 2))).save(tmp_path / "turned.png", exif=exif)
    assert_equal(detector(tmp_path / "turned.png"), detector(images[0]))
    with Image.open(tmp_path / "turned.png") as turned:
        assert_equal(detector(turned), detector(images[0].rot90(1, (1, 2))))


def test_the_score_threshold_leaves_out_what_scores_less(checkpoint, images):
    path = checkpoint()
    everything = Detector.from_checkpoint(path, device="cpu")(images[1])
    threshold = everything["scores"][2].item()
    best = Detector.from_checkpoint(path, device="cpu", score_threshold=threshold)(images[1])
    assert len(best["scores"]) < len(everything["scores"]) and best["scores"].min() >= threshold
    nothing = Detector.from_checkpoint(path, device="cpu", score_threshold=1.1)(images[1])
    assert nothing["boxes"].shape == (0, 4) and nothing["names"] == []


def test_a_file_of_thresholds_leaves_out_what_scores_less_than_its_class_needs(checkpoint, images, tmp_path):
    path = checkpoint(MODEL__ROI_HEADS__SCORE_THRESHOLD=0.0)
    everything = Detector.from_checkpoint(path, device="cpu")(images[0])
    classes = everything["names"]
    scores = {name: everything["scores"][classes.index(name)].item() for name in set(classes)}
    content = {name: {"threshold": scores.get(name)} for name in ("circle", "square", "triangle")}
    (tmp_path / "t.json").write_text(json.dumps(content))
    found = Detector.from_checkpoint(path, device="cpu", score_threshold=tmp_path / "t.json")(images[0])
    assert len(scores) > 1 and sorted(found["names"]) == sorted(scores)  # the best of each class
    (tmp_path / "t.json").write_text(json.dumps({"circle": {"threshold": 0.5}}))
    with pytest.raises(UserError, match="t.json: expected a threshold for each of circle, square, triangle; write"):
        Detector.from_checkpoint(path, device="cpu", score_threshold=str(tmp_path / "t.json"))


@pytest.mark.parametrize("heads", ["StandardRoIHeads", "CascadeRoIHeads"])
def test_scores_of_all_classes_on_request(checkpoint, images, heads):
    detector = Detector.from_checkpoint(checkpoint(MODEL__ROI_HEADS__NAME=heads), device="cpu")
    result = detector(images[1], class_scores=True)
    assert result["class_scores"].shape == (len(result["labels"]), 3)
    own = result["class_scores"].gather(1, result["labels"][:, None] - 1)[:, 0]
    assert torch.equal(own, result["scores"])
    assert (result["class_scores"].sum(dim=1) <= 1 + 1e-6).all()
    assert "class_scores" not in detector(images[1])


@pytest.mark.parametrize("heads", ["StandardRoIHeads", "CascadeRoIHeads"])
def test_features_are_the_box_heads_output_for_each_detection_one_by_one_or_batched(checkpoint, images, heads):
    path = checkpoint(MODEL__ROI_HEADS__NAME=heads, TRANSFORMS__TEST=[{"NAME": "ResizeShortSide", "SIZE": 64}])
    detector = Detector.from_checkpoint(path, device="cpu", batch_size=2)
    stage = getattr(detector.model.roi_heads, "stages", [detector.model.roi_heads])[-1]
    outputs = []
    hook = stage.box_head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    result = detector(images[1], features=True)
    hook.remove()
    (vectors,) = outputs
    assert result["features"].shape == (len(result["labels"]), 16) and len(result["labels"]) > 1
    assert "features" not in detector(images[1])

    # Each detection's features are one of the vectors: the one whose class scores it has.
    scores = detector(images[1], features=True, class_scores=True)
    if heads == "StandardRoIHeads":
        predicted = stage.predictor.logits(scores["features"]).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(predicted, scores["class_scores"])
    is_vector = (result["features"][:, None] == vectors).all(dim=2)
    assert is_vector.any(dim=1).all()
    for batched in detector([images[1], images[1]], features=True):
        torch.testing.assert_close(batched["features"], result["features"])

    mirrored = Detector.from_checkpoint(path, opts=["MODEL.TEST_FLIP", True], device="cpu")(images[1], features=True)
    assert mirrored["features"].shape == (len(mirrored["labels"]), 16)


def test_a_proposal_network_has_no_class_scores(checkpoint, images):
    detector = Detector.from_checkpoint(checkpoint(MODEL__NAME="ProposalNetwork"), device="cpu")
    assert set(detector(images[1])["names"]) == {"circle"}
    with pytest.raises(UserError, match="ProposalNetwork cannot return the scores of all classes"):
        detector(images[1], class_scores=True)
    with pytest.raises(UserError, match="ProposalNetwork cannot return features of its detections"):
        detector(images[1], features=True)


def test_bf16_gives_nearly_the_same(checkpoint, images):
    path = checkpoint()
    full, half = (Detector.from_checkpoint(path, device="cpu", precision=p) for p in ("fp32", "bf16"))
    best, nearly = full(images[1])["scores"][0], half(images[1])["scores"][0]
    assert best != nearly and abs(best - nearly) < 0.02 and nearly.dtype == torch.float32


def test_a_checkpoint_with_a_plugin_needs_its_import(checkpoint, tmp_path, images):
    plugin = tmp_path / "my_transforms.py"
    plugin.write_text(
        "from torchvision.transforms.v2 import functional as F\n"
        "from detlite.registry import TRANSFORMS\n"
        "@TRANSFORMS.register()\n"
        "class Half:\n"
        '    """Half as large."""\n'
        "    def __call__(self, image, target):\n"
        "        return F.resize(image, [side // 2 for side in image.shape[-2:]]), target\n"
    )
    path = checkpoint(IMPORTS=[str(plugin)], TRANSFORMS__TEST=[{"NAME": "Half"}])
    with pytest.raises(UserError, match="my_transforms.py"):
        Detector.from_checkpoint(path, device="cpu")
    detector = Detector.from_checkpoint(path, device="cpu", imports=[plugin])
    assert prepare_image(images[1], detector.transforms).image.shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"image 1: expected an array \(H, W, 3\).* got \(3, 20, 30\)"),
        (np.zeros((20, 30, 3), np.int64), "image 1: expected pixels, uint8 0-255 or float 0-1, got int64"),
        (np.full((20, 30, 3), 255.0), "image 1: expected float pixels from 0 to 1, got 255 to 255; use uint8"),
        (torch.full((3, 20, 30), torch.nan), "image 1: expected float pixels from 0 to 1, got nan"),
        (np.zeros((20, 30, 3), object), "image 1: expected pixels, uint8 0-255 or float 0-1, got object"),
        (np.zeros((20, 30, 3), ">u2"), "image 1: expected pixels, uint8 0-255 or float 0-1, got >u2"),
        (torch.zeros(3, 20, 30).to_sparse(), "image 1: expected a dense tensor"),
        (torch.zeros(3, 20, 30, device="meta"), "image 1: expected a dense tensor"),
        (torch.zeros(3, 20, 30).to(torch.float8_e5m2), "image 1: expected pixels, uint8 0-255 or float 0-1, got torch"),
        (Image.new("RGB", (0, 5)), r"image 1: cannot be read as an image: it has no pixels, its size is \(0, 5\)"),
        (Image.new("F", (4, 5), 300.0), "pixels, of mode F, are from 300 to 300; expected 0 to 1 or 0 to 255"),
        (Image.new("F", (4, 5), float("nan")), "pixels, of mode F, are from nan to nan; expected 0 to 1 or 0 to 255"),
        (Image.new("I", (4, 5), -1), "pixels, of mode I, are from -1 to -1; expected 0 to 255 or 0 to 65535"),
        (torch.zeros(1, 20, 30), r"image 1: expected a tensor \(3, H, W\), got \(1, 20, 30\)"),
        (torch.zeros(3, 0, 30), "image 1: expected pixels"),
        (7, "image 1: expected a path, a PIL image, an array or a tensor, got int"),
        ("nowhere.jpg", "nowhere.jpg: no such image file"),
    ],
)
def test_what_is_no_image_is_refused(detector, images, image, message):
    with pytest.raises(UserError, match=message):
        detector([images[0], image])


def test_threads_that_share_a_detector_get_what_one_thread_gets_and_leave_the_random_state():
    detector = build_detector()
    torch.manual_seed(1)
    before = random_state()
    assert count_differences(detector, num_threads=8, num_calls=56) == 0
    assert random_state() == before


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([*RESIZE, {"NAME": "RandomHorizontalFlip"}], "TRANSFORMS.TEST.1: RandomHorizontalFlip draws random numbers"),
        ([{"NAME": "ResizeShortSide", "SIZE": [40, 48]}], "TRANSFORMS.TEST.0: ResizeShortSide draws random numbers"),
    ],
)
def test_random_transforms_are_refused_where_a_detector_or_a_test_is_built(checkpoint, transforms, message, capsys):
    path = checkpoint(TRANSFORMS__TEST=transforms)
    before = random_state()
    with pytest.raises(UserError, match=message):
        Detector.from_checkpoint(path, device="cpu")
    assert random_state() == before
    for command in (["test", "--weights", str(path)], ["train", "TRANSFORMS.TEST", str(transforms)]):
        assert main([*command, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(path.parent / "output")]) == 1
        assert f"error: {message}" in capsys.readouterr().err
    detector = build_detector()
    with pytest.raises(UserError, match="transforms.0: RandomHorizontalFlip draws random numbers"):
        Detector(detector.model, detector.classes, RandomHorizontalFlip())


def test_a_cut_file_that_pillow_opened_is_refused_with_its_place(detector, images, tmp_path):
    to_pil_image(images[0]).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(UserError, match="image 1: cannot be read as an image"):
        detector([images[0], cut])


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_floats_that_torch_does_not_have_are_converted(detector, images, dtype):
    values = images[0].permute(1, 2, 0).numpy() / 255
    assert_equal(detector(values.astype(dtype)), detector(values), atol=1e-3, rtol=1e-3)


def test_options_that_make_no_sense_are_refused(detector, images):
    with pytest.raises(UserError, match="score_threshold must be a number, such as 0.5; got nan"):
        Detector(detector.model, detector.classes, detector.transforms, score_threshold=float("nan"))
    with pytest.raises(UserError, match="channel_order is 'bgr'; expected RGB or BGR"):
        detector(images, channel_order="bgr")
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        Detector(detector.model, detector.classes, detector.transforms, batch_size=0)


def test_torchmetrics_takes_the_results_as_they_are(detector, images):
    from torchmetrics.detection import MeanAveragePrecision

    results = detector(images[:1])
    metric = MeanAveragePrecision()
    metric.update(results, [{"boxes": r["boxes"][:1], "labels": r["labels"][:1]} for r in results])
    assert metric.compute()["map"] == pytest.approx(1)  # the best detection is the one object


@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")
def test_supervision_takes_the_results_as_they_are(detector, images):
    import supervision

    result = detector(images[0])
    detections = supervision.Detections.from_transformers(result, id2label=detector.id2label)
    np.testing.assert_array_equal(detections.xyxy, result["boxes"])
    np.testing.assert_array_equal(detections.confidence, result["scores"])
    assert detections.data["class_name"].tolist() == result["names"]
