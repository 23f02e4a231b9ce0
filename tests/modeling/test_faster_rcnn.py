import re

import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import box_iou

from detlite.errors import UserError
from detlite.modeling.sampler import BalancedSampler

SIZES = [(96, 128), (131, 97)]


def random_images(sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@pytest.fixture
def two_targets(make_target):
    return [make_target([[10, 20, 60, 70], [70, 30, 110, 90]], [1, 3]), make_target([[5, 60, 90, 120]], [2])]


def assert_finite_gradients(model, losses):
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def is_empty(detections):
    return {name: tuple(value.shape) for name, value in detections.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }


def test_training_gives_four_scalar_losses_that_train_every_parameter(narrow_model, two_targets):
    model = narrow_model()
    losses = model(random_images(), two_targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(loss.shape == () for loss in losses.values())
    assert_finite_gradients(model, losses)
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["loss_rpn_box_reg", "loss_box_reg", "loss_objectness", "loss_classifier"])
def test_each_loss_alone_reaches_the_first_convolution(name, narrow_model, two_targets):
    model = narrow_model()
    model(random_images(), two_targets)[name].backward()
    assert model.backbone.features[0].weight.grad.any()


def test_detections_lie_in_each_given_image(narrow_model):
    model = narrow_model({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0}).eval()
    detections = model(random_images())
    for image, (height, width) in zip(detections, SIZES, strict=True):
        boxes, scores, labels = image["boxes"], image["scores"], image["labels"]
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert set(labels.tolist()) <= {1, 2, 3} and labels.dtype == torch.int64
        assert torch.equal(scores, scores.sort(descending=True).values)


def test_a_batch_of_equal_sizes_gives_what_the_images_give_alone(narrow_model):
    model = narrow_model({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0}).eval()
    images = random_images([(96, 128), (96, 128)])
    for together, image in zip(model(images), images, strict=True):
        (alone,) = model([image])
        for key in together:
            torch.testing.assert_close(together[key], alone[key], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "boxes_and_labels",
    [[([], []), ([], [])], [([[10, 20, 60, 70]], [1]), ([], [])], [([], []), ([[10, 20, 60, 70]], [1])]],
)
def test_images_without_objects_train(boxes_and_labels, narrow_model, make_target):
    model = narrow_model()
    losses = model(random_images(), [make_target(*pair) for pair in boxes_and_labels])
    assert_finite_gradients(model, losses)
    assert losses["loss_objectness"] > 0 and losses["loss_classifier"] > 0
    if not any(boxes for boxes, _ in boxes_and_labels):
        assert losses["loss_rpn_box_reg"] == 0 and losses["loss_box_reg"] == 0


@pytest.mark.parametrize("pooler", ["RoIPool", "RoIAlign"])
def test_no_proposals_at_all_train_and_detect_nothing(pooler, narrow_model, two_targets):
    changes = {"MODEL.RPN.MIN_SIZE": 10_000, "MODEL.ROI_HEADS.APPEND_GT": False, "MODEL.ROI_HEADS.POOLER.NAME": pooler}
    model = narrow_model(changes)
    losses = model(random_images(), two_targets)
    assert losses["loss_classifier"] == 0 and losses["loss_box_reg"] == 0 and losses["loss_objectness"] > 0
    assert_finite_gradients(model, losses)
    assert all(map(is_empty, model.eval()(random_images())))


def test_objects_alone_train_the_roi_heads_when_there_are_no_proposals(narrow_model, two_targets):
    losses = narrow_model({"MODEL.RPN.MIN_SIZE": 10_000})(random_images(), two_targets)
    assert losses["loss_classifier"] > 0


def test_no_detection_above_the_threshold_is_no_detection(narrow_model):
    model = narrow_model({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 1}).eval()
    assert all(map(is_empty, model(random_images())))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (16, 16), (17, 15)])
def test_images_of_any_size_train_and_are_looked_at(size, narrow_model, make_target):
    model = narrow_model({"MODEL.RPN.MIN_SIZE": 0})
    images = random_images([size, (96, 64)])
    height, width = size
    losses = model(images, [make_target([[0, 0, width, height]], [1]), make_target([[0, 0, 30, 30]], [2])])
    assert_finite_gradients(model, losses)
    assert len(model.eval()(images)) == 2


def test_bytes_and_floats_mean_the_same_image(narrow_model):
    model = narrow_model().eval()
    for image in random_images():
        for floats in (image / 255, (image / 255).double()):
            torch.testing.assert_close(model.preprocess([image]), model.preprocess([floats]), atol=1e-4, rtol=1e-6)
    as_bytes, as_floats = model(random_images()), model([image / 255 for image in random_images()])
    for ours, theirs in zip(as_bytes, as_floats, strict=True):
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], atol=1e-3, rtol=1e-4)


def test_pixels_are_normalized_in_the_weights_channel_order(narrow_model):
    image = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)  # red, green, blue
    changes = {"MODEL.PIXEL_MEAN": [1, 2, 3], "MODEL.PIXEL_STD": [1, 2, 4]}
    (rgb,) = narrow_model(changes | {"MODEL.CHANNEL_ORDER": "RGB"}).preprocess([image])
    (bgr,) = narrow_model(changes | {"MODEL.CHANNEL_ORDER": "BGR"}).preprocess([image])
    assert rgb[:, 0, 0].tolist() == [(10 - 1) / 1, (20 - 2) / 2, (30 - 3) / 4]
    assert bgr[:, 0, 0].tolist() == [(30 - 1) / 1, (20 - 2) / 2, (10 - 3) / 4]


def test_tv_tensors_are_taken_too(narrow_model, two_targets):
    images = [tv_tensors.Image(image) for image in random_images()]
    targets = [
        target | {"boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)}
        for target, size in zip(two_targets, SIZES, strict=True)
    ]
    model = narrow_model()
    plain = model(random_images(), [target | {"seed": 1} for target in two_targets])
    for name, loss in model(images, [target | {"seed": 1} for target in targets]).items():
        assert type(loss) is torch.Tensor
        torch.testing.assert_close(loss, plain[name])


def test_an_images_seed_decides_what_is_sampled_whatever_the_batch(narrow_model, two_targets, monkeypatch):
    model = narrow_model({"MODEL.RPN.SAMPLER.NUM_SAMPLES": 8, "MODEL.ROI_HEADS.SAMPLER.NUM_SAMPLES": 8})
    samples, draw = [], BalancedSampler.__call__

    def record(self, *args):
        chosen = draw(self, *args)
        samples.append([indices.tolist() for indices in chosen])
        return chosen

    monkeypatch.setattr(BalancedSampler, "__call__", record)
    images, targets = random_images(), [target | {"seed": 5 + i} for i, target in enumerate(two_targets)]
    model(images, targets)
    first, samples[:] = samples.copy(), []
    torch.rand(5)  # the global generator has no say
    model(images[::-1], targets[::-1])
    rpn, roi_heads = first[:2], first[2:]
    assert len(samples) == 4 and samples == rpn[::-1] + roi_heads[::-1]
    samples.clear()
    model(images, [target | {"seed": 9} for target in targets])
    assert samples[0] != rpn[0] and samples[1] != rpn[1]


def test_training_without_targets_says_what_to_do(narrow_model):
    with pytest.raises(UserError, match=re.escape("model.eval()")):
        narrow_model()(random_images())


@pytest.mark.parametrize("label", [0, -1, 4])
def test_a_label_out_of_range_is_refused_with_the_images_name(label, narrow_model, two_targets, make_target):
    bad = make_target([[10, 20, 60, 70]], [label], image_id=4711)
    with pytest.raises(UserError, match=rf"target 1 \(image 4711\): label {label} is not in 1 \.\.\. 3"):
        narrow_model()(random_images(), [two_targets[0], bad])


@pytest.mark.parametrize(
    "box",
    [[60, 20, 10, 70], [10, 20, 10, 70], [10, 70, 60, 70], [10, 20, float("nan"), 70], [10, 20, float("inf"), 70]],
)
def test_a_degenerate_box_is_refused_with_the_images_name(box, narrow_model, make_target):
    bad = make_target([[1, 2, 3, 4], box], [1, 1], image_id="cat.jpg")
    with pytest.raises(UserError, match=r"target 0 \(image cat\.jpg\): box \[.*\] needs x1 < x2.*\(96, 128\)"):
        narrow_model()(random_images()[:1], [bad])


def test_boxes_and_labels_of_other_shapes_are_refused(narrow_model, make_target):
    for boxes, labels in ((torch.zeros(2, 4), [1]), (torch.zeros(4), [1, 1, 1, 1]), (torch.zeros(0), [])):
        target = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "image_id": 7}
        with pytest.raises(UserError, match=r"target 0 \(image 7\): boxes are \(M, 4\)"):
            narrow_model()(random_images()[:1], [target])


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.int64),
        torch.zeros(3, 32, 32).numpy(),
        None,
    ],
)
def test_what_is_no_image_is_refused_with_its_place(image, narrow_model):
    with pytest.raises(UserError, match=r"image 1: expected a \(3, H, W\) RGB tensor"):
        narrow_model().eval()([torch.zeros(3, 32, 32), image])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "target 0: expected a dict of boxes and labels, got NoneType"),
        ({"boxes": 0.0, "labels": torch.ones(1)}, "target 0: boxes must be a tensor, got float"),
        ({"boxes": torch.ones(1, 4).numpy(), "labels": torch.ones(1)}, "target 0: boxes must be a tensor, got ndarray"),
        ({"boxes": torch.ones(1, 4), "labels": [1], "image_id": 7}, r"target 0 \(image 7\): labels must be a tensor"),
        ({"boxes": torch.ones(1, 4), "labels": torch.tensor(1)}, r"target 0: boxes are \(M, 4\) and labels \(M,\)"),
    ],
)
def test_what_is_no_target_is_refused_with_its_place(target, message, narrow_model):
    with pytest.raises(UserError, match=message):
        narrow_model()(random_images()[:1], [target])


def test_a_tensor_of_images_is_a_batch_in_training_and_in_evaluation(narrow_model, two_targets):
    model = narrow_model({"MODEL.ROI_HEADS.SCORE_THRESHOLD": 0})
    batch = torch.stack(random_images([(131, 128), (131, 128)]))
    two_targets = [target | {"seed": 3} for target in two_targets]
    losses, expected = model(batch, two_targets), model(list(batch), two_targets)
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    for found, expected in zip(model.eval()(batch), model(list(batch)), strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("keys", [{"PIXEL_MEAN": [1, 2]}, {"PIXEL_STD": [1, 0, 1]}, {"PIXEL_STD": [1, 1, 1, 1]}])
def test_pixel_statistics_are_three_numbers(keys, narrow_model):
    with pytest.raises(UserError, match="MODEL: FasterRCNN: pixel_mean and pixel_std"):
        narrow_model({f"MODEL.{key}": value for key, value in keys.items()})


def test_a_device_that_is_not_there_is_refused(narrow_model):
    with pytest.raises(UserError, match="MODEL.DEVICE: 'abacus' cannot be used"):
        narrow_model({"MODEL.DEVICE": "abacus"})


def test_batch_norms_statistics_change_in_training_only(narrow_model, two_targets):
    model = narrow_model({"MODEL.BACKBONE.NORM": "BatchNorm"})
    statistics = model.backbone.features[1].running_mean
    before = statistics.clone()
    model.eval()(random_images())
    assert torch.equal(statistics, before)
    assert_finite_gradients(model, model.train()(random_images(), two_targets))
    assert not torch.equal(statistics, before)


def test_a_detector_learns_one_image_by_heart(narrow_model, make_target):
    """Losses, coder, labels and postprocessing agree: training on a box leads to its detection."""
    image = torch.full((3, 96, 128), 0.2)
    image[0, 16:64, 24:56] = 0.9
    image[1, 32:80, 80:112] = 0.9
    target = make_target([[24, 16, 56, 64], [80, 32, 112, 80]], [1, 3], seed=0)
    model = narrow_model(
        {
            "MODEL.PIXEL_STD": [58, 58, 58],
            "MODEL.BACKBONE.DEPTH": 11,
            "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [40],
            "MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign",
        }
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model([image], [target]).values()).backward()
        optimizer.step()
    (detections,) = model.eval()([image])
    assert detections["scores"][1] > 0.5
    assert sorted(detections["labels"][:2].tolist()) == [1, 3]
    for label, box in zip(detections["labels"][:2], detections["boxes"][:2], strict=True):
        assert box_iou(box[None], target["boxes"][target["labels"] == label]).item() > 0.6


@pytest.mark.parametrize("roi_heads", ["StandardRoIHeads", "CascadeRoIHeads"])
def test_an_ignored_image_has_no_loss(roi_heads, narrow_model, make_target):
    image, whole = random_images()[0], torch.tensor([[0.0, 0, 1000, 1000]])
    model = narrow_model({"MODEL.ROI_HEADS.NAME": roi_heads})
    losses = model([image], [make_target(ignored=whole.double())])
    assert len(losses) >= 4 and not any(losses.values())
    assert any(model([image], [make_target()]).values())
