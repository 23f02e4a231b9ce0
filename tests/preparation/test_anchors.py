"""Anchors found by k-means over a data set's boxes, and how well anchors fit them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert, box_iou

from detlite.cli import main
from detlite.config import load_config
from detlite.data import build_dataset
from detlite.errors import UserError
from detlite.modeling.anchor_generator import GridAnchorGenerator, ListAnchorGenerator
from detlite.ops.boxes import boxes_inside
from detlite.preparation import anchors
from detlite.preparation.anchor_recall import (
    ANCHORS,
    FINER,
    INSIDE,
    describe_recall,
    find_anchors,
    grid_ious,
    judge_anchors,
    log_recall,
)
from detlite.preparation.anchors import Objects, cluster, size_iou, training_objects

THREE_SHAPES = np.repeat([[10.0, 40.0], [40.0, 11.0], [90.0, 80.0]], [5, 50, 2], axis=0)
PYRAMID = {
    "MODEL__BACKBONE__NAME": "FPN",
    "MODEL__BACKBONE__EXTRA_LEVEL": False,
    "MODEL__BACKBONE__BOTTOM_UP__WIDTH": 0.1,
}


@pytest.fixture
def coco_opts(tmp_path):
    """A function: rows (bbox, iscrowd), more keys -> opts of a config that trains on one 200 x 100 image of them."""

    def opts(rows, **changes):
        Image.new("RGB", (200, 100)).save(tmp_path / "image.png")
        truth = {
            "images": [{"id": 7, "file_name": "image.png", "width": 200, "height": 100}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"id": number, "image_id": 7, "category_id": 1, "bbox": bbox, "iscrowd": crowd, "area": 1}
                for number, (bbox, crowd) in enumerate(rows, start=1)
            ],
        }
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        dataset = {"NAME": "CocoDataset", "ROOT": str(tmp_path), "ANNOTATIONS": "truth.json", "IMAGES": "."}
        values = {"DATASETS__TRAIN": [dataset], "TRANSFORMS__TRAIN": [], **changes}
        return [word for key, value in values.items() for word in (key.replace("__", "."), value)]

    return opts


def test_clusters_known_by_construction_are_found():
    assert cluster(THREE_SHAPES, 3, seed=0).tolist() == [[10, 40], [40, 11], [90, 80]]


def test_a_center_is_the_mean_of_its_boxes():
    sizes = np.array([[10.0, 12], [12, 10], [14, 14], [100, 100], [104, 96]])
    np.testing.assert_allclose(cluster(sizes, 2, seed=3), [[12, 12], [102, 98]])


def test_the_same_seed_finds_the_same_anchors_and_a_sample_stands_for_many_boxes(monkeypatch):
    sizes = np.random.default_rng(0).uniform(10, 100, (400, 2))
    monkeypatch.setattr(anchors, "MAX_CLUSTERED", 200)
    first, again, other = cluster(sizes, 5, seed=1), cluster(sizes, 5, seed=1), cluster(sizes, 5, seed=2)
    assert (first == again).all() and (first != other).any()
    assert (np.diff(first.prod(axis=1)) >= 0).all()


def test_one_cluster_more_fits_no_worse():
    sizes = np.random.default_rng(1).uniform(10, 100, (300, 2))
    means = [size_iou(sizes, cluster(sizes, num, seed=0)).max(axis=1).mean() for num in (1, 2, 4, 8, 16)]
    assert means == sorted(means)


def test_fewer_sizes_than_anchors_are_refused():
    with pytest.raises(UserError, match="4 anchors are wanted, but .* only 3 sizes"):
        cluster(THREE_SHAPES, 4, seed=0)


def test_iou_of_sizes_is_that_of_boxes_with_one_center():
    iou = size_iou(np.array([[4.0, 2.0], [8.0, 8.0]]), np.array([[2.0, 4.0], [4.0, 4.0]]))
    np.testing.assert_allclose(iou, [[4 / (8 + 8 - 4), 8 / 16], [8 / 64, 16 / 64]])


def objects_at(boxes, image_size, labels=None):
    boxes = np.array(boxes, float)
    labels = np.zeros(len(boxes), int) if labels is None else np.array(labels)
    return Objects(boxes, np.tile(image_size, (len(boxes), 1)), labels)


@pytest.mark.parametrize("inside_only", [False, True])
@pytest.mark.parametrize(
    ("generator", "strides"),
    [
        (GridAnchorGenerator([16], sizes=[16, 64, 128]), [16]),
        (GridAnchorGenerator([16], sizes=[32], offset=0), [16]),
        (ListAnchorGenerator([4, 8], anchors=[[[20, 30], [9, 9]], [[60, 50], [99, 40]]]), [4, 8]),
    ],
)
def test_the_best_anchor_of_the_grid_is_found_as_by_trying_all(generator, strides, inside_only):
    rng = np.random.default_rng(0)
    sizes = rng.uniform(5, 150, (200, 2))
    boxes = np.hstack([rng.uniform(0, 1, (200, 2)) * ((333, 201) - sizes), sizes])
    anchors = torch.cat(generator([(208 // stride, 336 // stride) for stride in strides]))  # padded to 208 x 336
    if inside_only:
        anchors = anchors[boxes_inside(anchors, [(201, 333)])[0]]
    expected = box_iou(box_convert(torch.tensor(boxes), "xywh", "xyxy").float(), anchors).amax(dim=1)
    found = grid_ious(generator, strides, objects_at(boxes, (333, 201)), inside_only)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_recall_is_of_the_grid_and_not_of_equal_centers(tiny_opts):
    # Centers are at 8, 24, ... A square of 16 px has IoU 1 at a center; moved by 8 px in x 1/3, and in x and y 1/7.
    opts = tiny_opts(MODEL__RPN__ANCHOR_GENERATOR__SIZES=[16], MODEL__RPN__ANCHOR_GENERATOR__ASPECT_RATIOS=[1])
    boxes = [[16, 16, 16, 16], [16, 16, 16, 16], [24, 16, 16, 16], [24, 24, 16, 16]]
    rows, remedy = judge_anchors(load_config(opts=opts), objects_at(boxes, (64, 64), [0, 0, 0, 1]), ["cat", "dog"])
    recalls = {row["objects"]: (row["number"], row["recall at 0.5"], row["recall at FOREGROUND_IOU"]) for row in rows}
    expected = {"all": (4, 0.5, 0.5), "small": (4, 0.5, 0.5), "class cat": (3, 2 / 3, 2 / 3), "class dog": (1, 0, 0)}
    assert recalls == expected and remedy == FINER


@pytest.mark.parametrize(
    ("box", "inside_only", "remedy"),
    [
        ([16, 16, 16, 16], True, ""),
        ([0, 0, 64, 8], True, ANCHORS),  # of another shape
        # 40 x 40 around (8, 24) begins at x = -12; IoU 24 * 36 / (24 * 40 + 40 * 40 - 24 * 36) = 0.51. Around (24, 24),
        # inside the image, it is 20 * 36 / (24 * 40 + 40 * 40 - 20 * 36) = 0.39.
        ([0, 0, 24, 40], False, ""),
        ([0, 0, 24, 40], True, INSIDE),
        ([24, 24, 16, 16], True, FINER),  # between four centers
    ],
)
def test_the_key_to_change_follows_from_the_cause(tiny_opts, box, inside_only, remedy):
    keys = {"MODEL__RPN__ANCHOR_GENERATOR__SIZES": [16, 40], "MODEL__RPN__ANCHOR_GENERATOR__ASPECT_RATIOS": [1]}
    opts = tiny_opts(**keys, MODEL__RPN__INSIDE_ONLY=inside_only)
    assert judge_anchors(load_config(opts=opts), objects_at([box], (64, 64)), ["cat"])[1] == remedy


def test_boxes_are_clipped_and_crowds_and_what_is_outside_left_out(coco_opts):
    rows = [([10, 20, 40, 30], 0), ([180, 90, 60, 40], 0), ([0, 0, 50, 50], 1)]
    objects, classes = training_objects(load_config(opts=coco_opts(rows)))
    assert objects.boxes.tolist() == [[10, 20, 40, 30], [180, 90, 20, 10]] and classes == ["cat"]
    assert objects.image_sizes.tolist() == [[200, 100]] * 2


@pytest.mark.parametrize(("sizes", "expected"), [([50], [8, 4]), ([80, 25, 20], [5, 2.5])])
def test_boxes_have_the_size_that_the_network_sees_at_the_middle_size_of_a_resize(coco_opts, sizes, expected):
    # 200 x 100 pixels: a short side of 50 would make the long one 100 > 80, so the scale is 80 / 200; 25 / 100 fits.
    resize = {"NAME": "ResizeShortSide", "SIZE": sizes, "MAX_SIZE": 80}
    opts = coco_opts([([0, 0, 20, 10], 0)], TRANSFORMS__TRAIN=[{"NAME": "RandomHorizontalFlip"}, resize])
    objects, _ = training_objects(load_config(opts=opts))
    np.testing.assert_allclose(objects.boxes, [[0, 0, *expected]])


def test_the_sizes_are_those_of_the_boxes_that_the_loader_gives(tiny_opts):
    from detlite.data import build_dataset, build_transforms, test_loader

    resize = {"NAME": "ResizeShortSide", "SIZE": 96, "MAX_SIZE": 1000}
    cfg = load_config(opts=tiny_opts(TRANSFORMS__TRAIN=[resize]))
    transforms = build_transforms(cfg.TRANSFORMS.TRAIN)
    loader = test_loader(build_dataset(cfg.DATASETS.TRAIN[0]), transforms, batch_size=4, num_workers=0)
    boxes = np.concatenate([target["boxes"].numpy() for _, targets in loader for target in targets])
    found = training_objects(cfg)[0].boxes
    np.testing.assert_allclose(found, np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]), rtol=1e-5)


def test_a_transform_that_may_change_sizes_is_named(coco_opts, monkeypatch, caplog):
    monkeypatch.setattr(anchors, "KEEP_SIZES", ())
    monkeypatch.setattr(anchors.logger, "propagate", True)
    caplog.set_level("INFO")
    opts = coco_opts([([0, 0, 20, 10], 0)], TRANSFORMS__TRAIN=[{"NAME": "RandomHorizontalFlip"}])
    training_objects(load_config(opts=opts))
    assert "TRANSFORMS.TRAIN.0: for anchors, RandomHorizontalFlip is assumed to keep" in caplog.text


def test_the_configs_own_anchors_are_judged_beside_those_found(coco_opts):
    rows = [([16, 16, 64, 64], 0), ([8, 8, 32, 32], 0)]  # around centers of cells, (48, 48) - 8 and (24, 24)
    own = {"NAME": "GridAnchorGenerator", "SIZES": [64], "ASPECT_RATIOS": [1]}
    cfg = load_config(opts=coco_opts(rows, MODEL__RPN__ANCHOR_GENERATOR=own, MODEL__RPN__INSIDE_ONLY=False))
    found, judged = find_anchors(cfg, 2)
    assert found == [[[32, 32], [64, 64]]]
    # The larger one is 8 px from four centers, so IoU is 56 ** 2 / (2 * 64 ** 2 - 56 ** 2) = 0.62. The smaller one is
    # at a center; with 64 x 64 it has 1/4.
    assert [table[0]["recall at 0.5"] for table, _ in judged] == [0.5, 1]
    assert [remedy for _, remedy in judged] == [ANCHORS, ""]


def test_a_log_has_no_recall_of_what_cannot_be_judged(coco_opts, tiny_opts, caplog):
    caplog.set_level("INFO")
    cfg = load_config(opts=coco_opts([]))  # no objects
    log_recall(cfg, build_dataset(cfg.DATASETS.TRAIN[0]))
    log_recall(load_config(opts=tiny_opts()), [])  # no data set of files
    dataset = build_dataset(load_config(opts=coco_opts([([0, 0, 9, 9], 0)])).DATASETS.TRAIN[0])
    log_recall(SimpleNamespace(MODEL={"BACKBONE": {}, "RPN": {"NAME": "Own"}}), dataset)  # another RPN
    assert "recall at" not in caplog.text


def test_poor_recall_is_told_of_groups_with_many_objects():
    rows = [{"objects": name, "number": number, "recall at 0.5": 0.5} for name, number in (("all", 100), ("dog", 51))]
    text = describe_recall([*rows, {"objects": "cat", "number": 49, "recall at 0.5": 0.0}])
    assert text == "50.0% of 100 objects have an anchor with an IoU of 0.5 or more; poor at 0.5: dog 50.0%"


def test_the_levels_of_a_pyramid_share_the_anchors_by_size(coco_opts):
    rows = [([0, 0, side, side], 0) for side in (90, 20, 30, 10, 80, 40)]
    opts = coco_opts(rows, **PYRAMID)
    found, _ = find_anchors(load_config(opts=opts), 6)
    assert found == [[[10, 10], [20, 20]], [[30, 30], [40, 40]], [[80, 80], [90, 90]]]
    with pytest.raises(UserError, match="use a multiple of 3"):
        find_anchors(load_config(opts=opts), 4)


@pytest.mark.parametrize("changes", [{}, PYRAMID], ids=["one level", "pyramid"])
def test_the_printed_yaml_is_a_config_with_the_anchors(coco_opts, tmp_path, capsys, changes):
    rows = [([0, 0, side, 90 - side], 0) for side in (10, 20, 50, 60)] + [([0, 0, 11, 80], 0), ([0, 0, 55, 35], 0)]
    opts = coco_opts(rows, **changes)
    assert main(["anchors", "--num", "3", *map(str, opts)]) == 0
    table, _, yaml = capsys.readouterr().out.partition("MODEL:")
    assert "the config's anchors:" in table and "recall at FOREGROUND_IOU" in table and "keep them" not in table
    (tmp_path / "found.yaml").write_text(f"MODEL:{yaml}")
    cfg = load_config(tmp_path / "found.yaml", opts)
    assert main(["anchors", "--config-file", str(tmp_path / "found.yaml"), "--num", "3", *map(str, opts)]) == 0
    assert "cover as many objects as the found ones: keep them" in capsys.readouterr().out
    found, _ = find_anchors(cfg, 3)
    assert cfg.MODEL.RPN.ANCHOR_GENERATOR.NAME == "ListAnchorGenerator"
    assert cfg.MODEL.RPN.ANCHOR_GENERATOR.ANCHORS == (found if changes else found[0])
