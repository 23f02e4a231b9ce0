import re

import pytest
import torch
from PIL import Image

from detlite import drawing
from detlite.checkpoint import read_weights
from detlite.cli import main
from detlite.cli.visualize import WHAT
from detlite.config import load_config
from detlite.drawing import GAP, HEADING
from detlite.errors import UserError
from detlite.inspection import stages, visualize
from detlite.inspection.stages import Scene
from detlite.modeling import build_model

FPN = {
    "MODEL__BACKBONE": {"NAME": "FPN", "OUT_CHANNELS": 8, "BOTTOM_UP": {"DEPTH": 11, "WIDTH": 0.0625, "FREEZE_AT": 0}},
    "MODEL__RPN__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64]],
    "MODEL__ROI_HEADS__POOLER__NAME": "MultiLevelPooler",
}


@pytest.fixture
def texts(monkeypatch):
    """Return a list that receives the legend and caption of every sheet."""
    seen = []
    for module in (stages, visualize):
        sheet = module.sheet
        monkeypatch.setattr(
            module,
            "sheet",
            lambda panels, legend=(), caption="", sheet=sheet: (
                seen.append((legend, caption)) or sheet(panels, legend, caption)
            ),
        )
    return seen


@pytest.fixture
def scene(tiny_opts):
    """Return a function: (target, changes) -> a scene of a gray 64 x 64 image with a new tiny detector."""

    def make(boxes, labels, **changes):
        torch.manual_seed(0)
        changes = {"MODEL__CLASSES": ["circle", "square", "triangle"], "MODEL__RPN__MIN_SIZE": 1} | changes
        cfg = load_config(opts=tiny_opts(**changes))
        image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
        target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
        return Scene(cfg, build_model(cfg).eval(), True, "test", image, target, image, target | {"seed": 5}, 0.5)

    return make


def test_the_command_names_every_view():
    assert WHAT == tuple(visualize.VIEWS)


@pytest.mark.parametrize(
    ("detector", "what"),
    [
        *(("FasterRCNN", what) for what in WHAT),
        *(("FPN", what) for what in ("inputs", "anchors", "matches", "proposals")),
        *(("ProposalNetwork", what) for what in ("matches", "proposals", "detections")),
        ("CascadeRoIHeads", "matches"),
    ],
)
def test_the_views_of_every_kind_of_detector(what, detector, checkpoint, tmp_path):
    changes = {
        "FPN": FPN,
        "ProposalNetwork": {"MODEL__NAME": "ProposalNetwork"},
        "CascadeRoIHeads": {"MODEL__ROI_HEADS__NAME": "CascadeRoIHeads"},
    }.get(detector, {})
    weights = read_weights(checkpoint(**changes))
    paths = visualize.visualize(
        weights.load_config(), what, weights=weights, indices=[2], folder=tmp_path / "out", score_threshold=0.2
    )
    assert [path.name for path in paths] == [f"{what}-{visualize.VIEWS[what][1]}-2.png"]
    with Image.open(paths[0]) as picture:
        assert picture.width > 2 * 300 or detector == "ProposalNetwork"
        assert len(picture.getcolors(10**6)) > 10


def test_untrained_detectors_show_their_anchors_and_not_their_detections(tiny_opts, tmp_path, texts):
    cfg = load_config(opts=tiny_opts())
    assert len(visualize.visualize(cfg, "matches", folder=tmp_path / "out")) == 4
    assert all("untrained" in caption for _, caption in texts)
    with pytest.raises(UserError, match="proposals: an untrained detector has none to show; give --weights"):
        visualize.visualize(cfg, "proposals", folder=tmp_path / "out")


def test_a_score_threshold_that_is_no_number_is_refused(checkpoint, capsys):
    assert main(["visualize", "--what", "inputs", "--score-threshold", "nan"]) == 1
    assert "error: score_threshold must be a number, such as 0.5; got nan" in capsys.readouterr().err
    assert main(["predict", "--weights", str(checkpoint()), "--score-threshold", "nan", __file__]) == 1
    assert "error: score_threshold must be a number, such as 0.5; got nan" in capsys.readouterr().err


def test_an_image_that_is_not_there_is_refused(tiny_opts, tmp_path):
    cfg = load_config(opts=tiny_opts())
    with pytest.raises(UserError, match="there is no image 5: DATASETS.TEST has 5, from 0 on"):
        visualize.visualize(cfg, "inputs", split="test", indices=[5], folder=tmp_path / "out")


def test_the_network_s_input_is_shown_padded_in_the_image_s_own_colors(scene):
    given = scene([[10.0, 10.0, 20.0, 20.0]], [1])._replace(image=torch.full((3, 40, 64), 200, dtype=torch.uint8))
    picture = visualize.inputs(given)  # two panels, 64 x 64 -> 360 x 360 and 48 x 64 -> 360 x 480
    assert picture.width == 360 + GAP + 480
    assert picture.getpixel((360 + GAP + 400, 100)) == (200, 200, 200)
    mean = tuple(round(value) for value in (122.7717, 115.9465, 102.9801))  # RGB of the default's BGR
    assert picture.getpixel((360 + GAP + 400, HEADING + 355)) == mean


def test_a_training_image_is_shown_as_in_ten_epochs(tiny_opts, tmp_path, texts):
    cfg = load_config(opts=tiny_opts(TRANSFORMS__TRAIN=[{"NAME": "Augmentation", "PRESET": "small"}]))
    heights = []
    for split in ("train", "test"):
        (path,) = visualize.visualize(cfg, "inputs", split=split, indices=[0], folder=tmp_path)
        with Image.open(path) as picture:
            heights.append(picture.height)
    assert [len(legend) for legend, _ in texts] == [0] * 4  # the sheet, two rows of draws, the sheet without draws
    assert heights[0] > heights[1] + 2 * 150


def test_counts_of_anchors_are_those_of_the_matcher(scene, texts):
    given = scene(
        [[16.0, 16.0, 48.0, 48.0]],
        [2],
        MODEL__RPN__ANCHOR_GENERATOR__SIZES=[32],
        MODEL__RPN__ANCHOR_GENERATOR__ASPECT_RATIOS=[1.0],
        MODEL__RPN__ANCHOR_GENERATOR__OFFSET=0.0,
        MODEL__RPN__INSIDE_ONLY=True,
    )
    stages.anchors(given)  # 4 x 4 anchors of 32 px, centers 0, 16, 32, 48: only that at (32, 32) is the object
    legend, caption = texts[0]
    assert [text for _, text in legend] == ["conv5: stride 16, 16 cells x 1", "1 square: 1 positive, best IoU 1.00"]
    # Inside lie those with centers 16, 32, 48 each way: neighbors at 16 px have IoU 1/3, diagonal ones 1/7.
    assert "16 anchors: 1 positive" in caption and "; 4 negative" in caption
    assert "11 ignored (gray centers)" in caption  # 4 neighbors, and 7 that leave the image


def test_no_anchor_is_said_to_leave_the_image_where_all_anchors_train(scene, texts):
    keys = {"SIZES": [32], "ASPECT_RATIOS": [1.0], "OFFSET": 0.0}
    keys = {f"MODEL__RPN__ANCHOR_GENERATOR__{key}": value for key, value in keys.items()}
    stages.anchors(scene([[0.0, 0.0, 32.0, 32.0]], [2], **keys, MODEL__RPN__INSIDE_ONLY=False))
    # The four neighbors at 16 px have IoU 1/3, though two of them leave the image; all 11 others have at most 1/7.
    caption = texts[0][1]
    assert "; 11 negative" in caption and "4 ignored (gray centers)" in caption


def test_what_is_sampled_is_what_a_training_step_with_the_seed_samples(scene, monkeypatch):
    given = scene([[16.0, 16.0, 48.0, 48.0]], [2], MODEL__RPN__SAMPLER__NUM_SAMPLES=8)
    drawn = []
    original = type(given.model.rpn.sampler).__call__
    monkeypatch.setattr(
        type(given.model.rpn.sampler),
        "__call__",
        lambda self, *args: drawn.append(original(self, *args)) or drawn[-1],
    )
    stages.matches(given)
    shown = list(drawn)
    drawn.clear()
    given.model.train()([given.image], [given.target])
    for (positive, negative), (expected_positive, expected_negative) in zip(shown[:1], drawn[:1], strict=True):
        assert torch.equal(positive, expected_positive) and torch.equal(negative, expected_negative)
    assert len(shown) == 2 and len(shown[0][1]) > 0


def test_fewer_proposals_survive_nms(scene, texts):
    stages.proposals(scene([[16.0, 16.0, 48.0, 48.0]], [2]))
    assert re.search(r"The proposals cover [01] of 1 objects with IoU 0.5", texts[0][1])


def test_mistakes_are_named_and_detections_in_ignored_regions_are_none(scene, monkeypatch):
    given = scene([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]], [1, 2])
    given.truth["ignored"] = torch.tensor([[0.0, 40.0, 20.0, 60.0]])
    boxes = [[10, 10, 30, 30], [10, 10, 30, 29], [40, 1, 60, 20], [0, 40, 20, 60], [0, 0, 9, 9]]
    found = {"boxes": torch.tensor(boxes).float(), "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.4])}
    given.model.forward = lambda images: [found | {"labels": torch.tensor([1, 1, 3, 2, 1])}]
    drawn = []
    monkeypatch.setattr(drawing.Panel, "boxes", lambda self, boxes, colors, names: drawn.append(names))
    view, _, _ = visualize.VIEWS["mistakes"]
    view(given)
    assert drawn[0] == ["circle, found", "square, missed"]
    assert drawn[1] == [
        "square, ignored 0.60",
        "triangle, background 0.70",
        "circle, duplicate 0.80",
        "circle, right 0.90",
    ]


def test_the_command_draws_and_a_detector_without_rpn_is_told(checkpoint, tmp_path, capsys, scene):
    arguments = ["visualize", "--what", "anchors", "--weights", str(checkpoint()), "--images", "1"]
    assert main([*arguments, "--output", str(tmp_path / "out"), "MODEL.RPN.MATCHER.FOREGROUND_IOU", "0.6"]) == 0
    assert str(tmp_path / "out" / "anchors-train-1.png") in capsys.readouterr().out
    given = scene([], [])
    del given.model.rpn
    with pytest.raises(UserError, match="FasterRCNN has no RPN"):
        stages.anchors(given)


@pytest.mark.parametrize("view", [view for view, _, _ in visualize.VIEWS.values()])
def test_an_image_without_objects_is_drawn(view, scene):
    with torch.inference_mode():
        assert view(scene([], [])).width > 600
