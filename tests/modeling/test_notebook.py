"""The notebook that detlite starts from: its steps give its published numbers, and its faults are gone.

Expected values are numpy in float64, written here a second time, and the notebook's published numbers. Its deltas and
scores are normal numbers and a permutation that numpy draws from seed 0, with the notebook's order of anchors (column
by column) and of coordinates (y first) undone.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detlite.config import load_config
from detlite.modeling import build_model, matcher
from detlite.modeling.roi_heads import pooler
from detlite.modeling.rpn import RPN
from detlite.modeling.rpn.proposals import select_proposals
from detlite.modeling.sampler import BalancedSampler
from detlite.ops import iou, nms
from detlite.registry import BOX_CODERS, META_ARCHITECTURES

CONFIG = Path(__file__).parents[2] / "configs" / "notebook.yaml"
SIZE = (800, 800)
GT_BOXES = np.array([[30.0, 20.0, 500.0, 400.0], [400.0, 300.0, 600.0, 500.0]])
NARROW = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.WIDTH", 1 / 16, "MODEL.RPN.HEAD.CONV_DIM", 16]
NARROW += ["MODEL.ROI_HEADS.BOX_HEAD.FC_DIM", 64]
AS_THE_NOTEBOOK = ["MODEL.ROI_HEADS.APPEND_GT", False, "MODEL.ROI_HEADS.BOX_HEAD.DROPOUT", 0]
AS_THE_NOTEBOOK += ["MODEL.ROI_HEADS.BOX_CODER.WEIGHTS", [1, 1, 1, 1]]  # its faults 9 to 11


def expected_anchors():
    """(22500, 4): centers row by row, in a cell ratios slowest."""
    y, x, ratio, size = np.meshgrid(
        8.0 + 16 * np.arange(50), 8.0 + 16 * np.arange(50), [0.5, 1, 2], [128, 256, 512], indexing="ij"
    )
    width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=-1).reshape(-1, 4)


def expected_iou(boxes, others):
    """(len(boxes), len(others))."""
    boxes, others = boxes[:, None], others[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    overlap = sides.clip(min=0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (boxes, others)]
    return overlap / (areas[0] + areas[1] - overlap)


def expected_deltas(boxes, gt_boxes):
    """Compute the paper's formula, row by row."""
    sizes, gt_sizes = boxes[:, 2:] - boxes[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
    centers, gt_centers = boxes[:, :2] + sizes / 2, gt_boxes[:, :2] + gt_sizes / 2
    return np.concatenate([(gt_centers - centers) / sizes, np.log(gt_sizes / sizes)], axis=1)


def expected_decoded(boxes, deltas):
    """The inverse."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    centers = boxes[:, :2] + sizes / 2 + deltas[:, :2] * sizes
    half_sizes = sizes * np.exp(deltas[:, 2:]) / 2
    return np.concatenate([centers - half_sizes, centers + half_sizes], axis=1)


@pytest.fixture(scope="module")
def given():
    """deltas (22500, 4) float32 and scores (22500,), a permutation of 0 ... 22499."""
    random = np.random.default_rng(0)
    deltas = random.standard_normal((22500, 4)) * 0.3
    scores = random.permutation(22500)
    column_by_column = np.arange(22500).reshape(50, 50, 9).transpose(1, 0, 2).ravel()
    return (
        deltas[column_by_column][:, [1, 0, 3, 2]].astype(np.float32),
        scores[column_by_column].astype(np.float32),
    )


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def rpn(cfg):
    return RPN.from_config(cfg.MODEL.RPN, [512], [16])


@pytest.fixture(scope="module")
def anchors(rpn):
    return rpn.anchor_generator([(50, 50)])[0]


@pytest.fixture(scope="module")
def proposals(rpn, anchors, given):
    """The 2,000 of training."""
    deltas, scores = (torch.from_numpy(array) for array in given)
    logits = torch.stack([torch.zeros(22500), scores], dim=1)
    return rpn.train().propose([anchors], [logits[None]], [deltas[None]], [SIZE])[0][0]


@pytest.fixture(scope="module")
def shapes(cfg):
    """The full-size model on the meta device: shapes, and no memory."""
    with torch.device("meta"):
        return META_ARCHITECTURES.build(load_config(CONFIG).MODEL, 20)


@pytest.fixture
def narrow():
    """A function: the notebook's detector at a sixteenth of its width, in training mode."""
    return lambda *opts: build_model(load_config(CONFIG, [*NARROW, *opts]))


@pytest.fixture
def targets():
    return [{"boxes": torch.tensor(GT_BOXES, dtype=torch.float32), "labels": torch.tensor([6, 8]), "seed": 0}]


# The steps of the table.


def test_step_1_features_have_14723136_parameters_and_stride_16(shapes):
    assert sum(parameter.numel() for parameter in shapes.backbone.features.parameters()) == 14_723_136
    assert all(parameter.requires_grad for parameter in shapes.parameters())
    features = shapes.backbone(torch.empty(1, 3, 800, 800, device="meta"))
    assert features["conv5"].shape == (1, 512, 50, 50)
    kinds = [type(layer).__name__ for layer in shapes.backbone.features]
    assert kinds.count("Conv3x3") == kinds.count("BatchNorm2d") == kinds.count("ReLU") == 13
    assert kinds.count("MaxPool2d") == 4 and kinds[-3:] == ["Conv3x3", "BatchNorm2d", "ReLU"]


def test_step_2_the_head_has_36_and_18_channels_and_starts_small(shapes, rpn):
    head, features = shapes.rpn.head, torch.empty(1, 512, 50, 50, device="meta")
    assert head.conv(features).shape == (1, 512, 50, 50)
    assert head.deltas(features).shape == (1, 36, 50, 50) and head.logits(features).shape == (1, 18, 50, 50)
    for layer in (rpn.head.conv, rpn.head.deltas, rpn.head.logits):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not layer.bias.any()
    with torch.device("meta"):
        sigmoid = RPN.from_config(load_config(CONFIG, ["MODEL.RPN.HEAD.OBJECTNESS", "sigmoid"]).MODEL.RPN, [512], [16])
    assert sigmoid.head.logits(features).shape == (1, 9, 50, 50)


def test_step_3_of_22500_anchors_8940_lie_inside(rpn, anchors):
    expected = expected_anchors()
    assert anchors.shape == (22500, 4)
    np.testing.assert_allclose(anchors.numpy(), expected, atol=1e-4)
    inside = (expected >= 0).all(axis=1) & (expected <= 800).all(axis=1)
    assert inside.sum() == 8940
    labels = rpn.match(anchors, torch.zeros(0, 4), SIZE)[1]  # without objects: negative inside, ignored outside
    assert np.array_equal(labels.numpy() == 0, inside)


def test_steps_4_and_5_best_overlaps_and_labels(rpn, anchors):
    expected = expected_anchors()
    inside = (expected >= 0).all(axis=1) & (expected <= 800).all(axis=1)
    iou = expected_iou(expected, GT_BOXES)
    assert iou[inside].shape == (8940, 2)
    np.testing.assert_allclose(iou[inside].max(axis=0), [0.68130493, 0.61035156], atol=5e-9)
    positive = (iou >= 0.7).any(axis=1) | (iou >= iou[inside].max(axis=0) - 1e-6).any(axis=1)
    expected_labels = np.where(positive, 1, np.where(iou.max(axis=1) < 0.3, 0, -1))
    expected_labels[~inside] = -1
    matches, labels = rpn.match(anchors, torch.tensor(GT_BOXES, dtype=torch.float32), SIZE)
    assert [int((labels[inside] == value).sum()) for value in (1, 0, -1)] == [18, 7690, 1232]
    assert np.array_equal(labels.numpy(), expected_labels)
    overlapping = inside & (iou.max(axis=1) > 0)
    assert np.array_equal(matches.numpy()[overlapping], iou.argmax(axis=1)[overlapping])


def test_step_6_18_positive_and_238_negative_are_sampled(rpn, anchors):
    _, labels = rpn.match(anchors, torch.tensor(GT_BOXES, dtype=torch.float32), SIZE)
    positive, negative = rpn.sampler(labels, torch.Generator().manual_seed(0))
    assert (len(positive), len(negative)) == (18, 238)
    assert (labels[positive] == 1).all() and (labels[negative] == 0).all()


def test_step_7_target_deltas_and_back(rpn, anchors):
    matches, labels = rpn.match(anchors, torch.tensor(GT_BOXES, dtype=torch.float32), SIZE)
    inside = (anchors >= 0).all(dim=1) & (anchors <= 800).all(dim=1)
    gt_boxes = torch.tensor(GT_BOXES, dtype=torch.float32)[matches]
    deltas = rpn.box_coder.encode(anchors[inside], gt_boxes[inside])
    expected = expected_deltas(expected_anchors()[inside.numpy()], GT_BOXES[matches[inside].numpy()])
    np.testing.assert_allclose(deltas.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(rpn.box_coder.decode(anchors[inside], deltas), gt_boxes[inside], atol=1e-3)


def test_step_8_the_rpn_loss_is_cross_entropy_plus_ten_times_the_mean_over_the_positives(rpn, anchors, targets):
    logits, deltas = torch.zeros(1, 22500, 2), torch.zeros(1, 22500, 4)
    losses = rpn.losses(anchors, logits, deltas, [SIZE], targets, [torch.Generator().manual_seed(0)])
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2), abs=1e-6)  # 0.69
    matches, labels = (tensor.numpy() for tensor in rpn.match(anchors, targets[0]["boxes"], SIZE))
    errors = np.abs(expected_deltas(expected_anchors()[labels == 1], GT_BOXES[matches[labels == 1]]))
    smooth = np.where(errors < 1, errors**2 / 2, errors - 0.5)  # (18, 4)
    assert losses["loss_rpn_box_reg"].item() == pytest.approx(10 * smooth.mean(), rel=1e-5)


@pytest.fixture
def before_nms(rpn, anchors, given):
    """A function: the best proposals and their scores, as they would enter NMS."""

    def keep_all(boxes, scores, groups, limit):
        return torch.arange(len(boxes)), scores

    deltas, scores = (torch.from_numpy(array) for array in given)
    boxes, limits = rpn.box_coder.decode(anchors, deltas), {"nms": keep_all, "post_nms_top_n": 22500}
    limits["min_size"] = rpn.min_size
    return lambda count: select_proposals([boxes[None]], [scores[None]], [SIZE], pre_nms_top_n=count, **limits)[0]


def test_step_9_proposals_before_nms(rpn, given, before_nms):
    deltas, scores = given
    expected = expected_decoded(expected_anchors(), deltas.astype(np.float64)).clip(0, 800)
    large = ((expected[:, 2:] - expected[:, :2]) >= 16).all(axis=1)
    assert len(before_nms(22500)[0]) == large.sum()
    order = np.argsort(-scores[large])[:12000]
    boxes, kept_scores = before_nms(rpn.pre_nms_top_n(training=True))
    np.testing.assert_allclose(boxes, expected[large][order], atol=1e-3)
    assert np.array_equal(kept_scores, scores[large][order])


def test_step_9_proposals_are_the_notebooks_published_ones(given, before_nms):
    published = {  # row: score, box
        0: (22499, [396.62433, 0.0, 627.9405, 338.73474]),
        1: (22498, [490.8363, 0.0, 800.0, 716.8913]),
        5999: (16388, [0.0, 307.73877, 119.66995, 470.91016]),
        11999: (10267, [194.9033, 151.29855, 419.0348, 261.32617]),
    }
    drawn = [-0.03963146, 0.03771907, 0.03147003, 0.1921268]
    assert np.allclose(given[0][0], drawn, atol=1e-7), "numpy draws other numbers than it did for the notebook"
    boxes, scores = before_nms(22500)
    assert len(boxes) == 22074
    for row, (score, box) in published.items():
        assert scores[row] == score
        assert boxes[row].tolist() == pytest.approx(box, abs=1e-3)


def test_step_9_training_keeps_2000_and_test_300(rpn, anchors, given, proposals):
    assert proposals.shape == (2000, 4)
    assert [rpn.pre_nms_top_n(training) for training in (True, False)] == [12000, 6000]
    assert [rpn.post_nms_top_n(training) for training in (True, False)] == [2000, 300]
    iou = expected_iou(proposals.numpy().astype(np.float64), proposals.numpy().astype(np.float64))
    assert (iou - np.eye(2000)).max() <= 0.7 + 1e-5


def test_step_10_128_regions_are_sampled_a_quarter_foreground_at_most(shapes, proposals, targets):
    (boxes,), (labels,), (gt_boxes,) = shapes.roi_heads.sample([proposals], targets, [torch.Generator().manual_seed(0)])
    iou = expected_iou(boxes.numpy().astype(np.float64), GT_BOXES)
    assert boxes.shape == (128, 4) and labels.shape == (128,)
    assert len(gt_boxes) == (labels > 0).sum() == min(32, len(gt_boxes))
    foreground = labels.numpy() > 0
    assert (iou.max(axis=1)[foreground] >= 0.5).all() and (iou.max(axis=1)[~foreground] < 0.5).all()
    assert np.array_equal(labels.numpy()[foreground], np.array([6, 8])[iou[foreground].argmax(axis=1)])


def test_step_11_regions_are_pooled_to_seven_by_seven(shapes, proposals):
    assert isinstance(shapes.roi_heads.pooler, pooler.RoIPool)
    features = torch.randn(1, 512, 50, 50)
    pooled = shapes.roi_heads.pooler([features], [proposals[:128]])
    assert pooled.shape == (128, 512, 7, 7)
    x1, y1, x2, y2 = (round(value / 16) for value in proposals[0].tolist())  # no value ends in exactly a half here
    assert pooled[0].amax(dim=(1, 2)).equal(features[0, :, y1 : y2 + 1, x1 : x2 + 1].amax(dim=(1, 2)))


def test_step_12_the_head_gives_84_deltas_and_21_scores(shapes):
    vectors = shapes.roi_heads.box_head(torch.empty(128, 512, 7, 7, device="meta"))
    assert vectors.shape == (128, 4096)
    assert shapes.roi_heads.predictor.deltas(vectors).shape == (128, 84)
    assert shapes.roi_heads.predictor.logits(vectors).shape == (128, 21)
    assert shapes.roi_heads.box_head.fc6.in_features == 25088


def test_step_13_the_roi_loss_is_cross_entropy_plus_ten_times_the_mean_on_the_true_classs_deltas(narrow):
    roi_heads = narrow().roi_heads
    for layer in (roi_heads.predictor.logits, roi_heads.predictor.deltas):
        nn.init.zeros_(layer.weight)
    proposals = np.array([[20.0, 30.0, 480.0, 420.0], [410.0, 310.0, 620.0, 480.0], [0.0, 600.0, 90.0, 700.0]])
    matches = [0, 1]
    losses = roi_heads.losses(
        [torch.randn(1, 32, 50, 50)],
        [torch.tensor(proposals, dtype=torch.float32)],
        [torch.tensor([6, 8, 0])],
        [torch.tensor(GT_BOXES[matches], dtype=torch.float32)],
    )
    assert losses["loss_classifier"].item() == pytest.approx(math.log(21), abs=1e-6)
    errors = np.abs(expected_deltas(proposals[:2], GT_BOXES[matches]) * [10, 10, 5, 5])
    smooth = np.where(errors < 1, errors**2 / 2, errors - 0.5)
    assert losses["loss_box_reg"].item() == pytest.approx(10 * smooth.mean(), rel=1e-5)


def test_the_whole_model_has_137086687_parameters(shapes):
    assert sum(parameter.numel() for parameter in shapes.parameters()) == 137_086_687


@pytest.mark.slow
def test_at_full_size_both_stages_together_cost_about_4_untrained(targets):
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *AS_THE_NOTEBOOK]))
    with torch.no_grad():
        losses = {name: loss.item() for name, loss in model([torch.zeros(3, 800, 800)], targets).items()}
    assert losses["loss_objectness"] == pytest.approx(0.69, abs=0.03)
    assert sum(losses.values()) == pytest.approx(4.1, abs=0.4)
    assert losses["loss_classifier"] == pytest.approx(math.log(21), abs=0.4)


# Its faults, in the order of its list: each test fails where the fault is.


def test_fault_1_the_rpns_box_loss_trains_the_rpn_and_the_backbone(narrow, targets):
    model = narrow()
    model([torch.rand(3, *SIZE)], targets)["loss_rpn_box_reg"].backward()
    assert model.rpn.head.deltas.weight.grad.any() and model.backbone.features[0].weight.grad.any()


def test_fault_2_the_roi_losses_reach_the_backbone(narrow, targets):
    for name in ("loss_classifier", "loss_box_reg"):
        model = narrow()
        model([torch.rand(3, *SIZE)], targets)[name].backward()
        assert model.backbone.features[0].weight.grad.any()


def test_fault_3_regions_are_not_transposed(shapes):
    features = torch.zeros(1, 1, 50, 50)
    features[0, 0, 10, 40] = 1  # x = 640 ... 656, y = 160 ... 176
    boxes = torch.tensor([[600.0, 140.0, 700.0, 200.0], [140.0, 600.0, 200.0, 700.0]])
    assert shapes.roi_heads.pooler([features], [boxes]).amax(dim=(1, 2, 3)).tolist() == [1, 0]


def test_fault_4_the_prediction_of_a_cell_moves_the_anchors_of_that_cell():
    """On a map of 20 x 50 cells, the one in row 3, column 30 says "object" of its 256 x 256, a quarter to the right."""
    rpn = RPN.from_config(load_config(CONFIG, ["MODEL.RPN.HEAD.CONV_DIM", 1]).MODEL.RPN, [1], [16])
    for parameter in rpn.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        rpn.head.conv.weight[0, 0, 1, 1] = 1
        rpn.head.logits.weight[2 * 4 + 1] = 5.0  # fifth anchor, second column
        rpn.head.deltas.weight[4 * 4] = 0.25
    features = torch.zeros(1, 1, 20, 50)
    features[0, 0, 3, 30] = 1
    (proposals,), _ = rpn([features], [(320, 800)])
    x, y = 8 + 16 * 30 + 0.25 * 256, 8 + 16 * 3
    assert proposals[0].tolist() == pytest.approx([x - 128, 0, x + 128, y + 128])


def test_fault_5_an_object_that_no_anchor_overlaps_makes_none_positive(rpn, anchors):
    gt_boxes = torch.tensor([[900.0, 900.0, 950.0, 950.0]])
    assert (rpn.match(anchors, gt_boxes, SIZE)[1] != 1).all()
    both = torch.cat([torch.tensor(GT_BOXES, dtype=torch.float32), gt_boxes])
    assert (rpn.match(anchors, both, SIZE)[1] == 1).sum() == 18


def test_fault_6_too_many_positives_are_cut_to_a_whole_number(rpn):
    positive, negative = rpn.sampler(torch.ones(1000, dtype=torch.int64), None)
    assert (len(positive), len(negative)) == (128, 0)
    positive, negative = BalancedSampler(num_samples=5, positive_fraction=0.5)(torch.arange(100) % 2, None)
    assert (len(positive), len(negative)) == (2, 3)


def test_fault_7_size_stride_and_classes_are_no_constants(narrow, targets):
    model = narrow("MODEL.CLASSES", ["cell"], "MODEL.RPN.ANCHOR_GENERATOR.SIZES", [32])
    target = {"boxes": torch.tensor([[10.0, 20.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    for size in ((97, 203), (256, 128)):
        losses = model.train()([torch.rand(3, *size)], [target])
        assert all(loss.isfinite() for loss in losses.values())
        assert model.roi_heads.predictor.logits.out_features == 2
    assert RPN.from_config(load_config(CONFIG).MODEL.RPN, [8], [32]).anchor_generator([(1, 1)])[0].mean() == 16


def test_fault_8_no_plus_one_anywhere(rpn, cfg):
    # 100 / 144 is below 0.7; with "+1" it would be 121 / 169 = 0.716, above
    boxes = torch.tensor([[0.0, 0.0, 14.4, 10.0], [0.0, 0.0, 10.0, 10.0]])
    limits = {"min_size": 0.0, "pre_nms_top_n": 9, "post_nms_top_n": 9}
    scores = torch.tensor([[2.0, 1.0]])
    assert len(select_proposals([boxes[None]], [scores], [SIZE], nms=rpn.nms, **limits)[0][0]) == 2
    strict = matcher.MaxIoUMatcher(foreground_iou=0.7, keep_best=False)
    assert strict(boxes[1:], boxes[:1])[1].tolist() == [-1]
    coder = BOX_CODERS.build(cfg.MODEL.RPN.BOX_CODER)
    deltas = coder.encode(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[0.0, 0.0, 20.0, 10.0]]))
    torch.testing.assert_close(deltas, torch.tensor([[0.5, 0.0, math.log(2), 0.0]]))


def test_fault_9_a_relu_follows_the_rpns_convolution_and_dropout_the_heads_layers(rpn, narrow):
    hidden = []
    hook = rpn.head.logits.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0]))
    rpn.head([torch.randn(1, 512, 4, 4)])
    hook.remove()
    assert (hidden[0] >= 0).all() and (hidden[0] == 0).any()
    box_head, pooled = narrow().roi_heads.box_head, torch.rand(50, 32, 7, 7)
    nn.init.constant_(box_head.fc7.bias, 10.0)
    assert (box_head.train()(pooled) == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (box_head.eval()(pooled) > 0).all()


def test_fault_10_objects_join_the_proposals_in_training(shapes, targets):
    nowhere = torch.tensor([[700.0, 700.0, 790.0, 790.0]])
    (boxes,), (labels,), _ = shapes.roi_heads.sample([nowhere], targets, None)
    assert labels.tolist() == [6, 8, 0] and boxes[:2].tolist() == GT_BOXES.tolist()


def test_fault_11_region_targets_are_divided_by_their_deviations(shapes):
    box, gt_box = torch.tensor([[0.0, 0.0, 100.0, 50.0]]), torch.tensor([[10.0, 0.0, 130.0, 60.0]])
    expected = [0.2 / 0.1, 0.1 / 0.1, math.log(1.2) / 0.2, math.log(1.2) / 0.2]
    assert shapes.roi_heads.box_coder.encode(box, gt_box)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_fault_12_overlaps_suppression_and_pooling_are_no_loops_over_boxes(narrow, monkeypatch, targets):
    """Functions of whole tensors are called once per image, batch or block, for any number of boxes."""
    calls = []

    def counted(name, function):
        return lambda *args: calls.append(name) or function(*args)

    for module, name in ((iou, "box_iou"), (nms, "nms"), (pooler, "roi_pool")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    narrow()([torch.rand(3, *SIZE)], targets)
    assert calls.count("box_iou") == 2  # one per stage
    assert 1 <= calls.count("nms") < 1000  # once a block of the 12,000 boxes
    assert calls.count("roi_pool") == 1


def test_fault_13_a_batch_trains_and_is_detected_in(narrow, targets):
    model = narrow("MODEL.ROI_HEADS.SCORE_THRESHOLD", 0)
    images = [torch.rand(3, 320, 480), torch.rand(3, *SIZE)]
    small = {"boxes": torch.tensor([[100.0, 50.0, 300.0, 250.0]]), "labels": torch.tensor([1])}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sum(model(images, [small, targets[0]]).values()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        assert name.endswith("bias") or not parameter.equal(before[name]), name
    assert [len(image["boxes"]) for image in model.eval()(images)] == [100, 100]
