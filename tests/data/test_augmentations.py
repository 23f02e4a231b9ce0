import inspect
import pickle

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detlite.config import load_config
from detlite.config.load import override
from detlite.data import build_test_transforms, build_transforms, seeded
from detlite.data.augmentations import BOXES, LISTS, PIXELS, PRESETS
from detlite.errors import UserError
from detlite.registry import TRANSFORMS
from detlite.signature import config_keys

# The parameters in torchvision 0.21.0, the oldest supported version, and in 0.29.1: they have the same names.
PARAMETERS = {
    "RandomPhotometricDistort": "brightness contrast saturation hue p",
    "GaussianBlur": "kernel_size sigma",
    "GaussianNoise": "mean sigma clip",
    "JPEG": "quality",
    "RandomGrayscale": "p",
    "RandomErasing": "p scale ratio value inplace",
    "RandomIoUCrop": "min_scale max_scale min_aspect_ratio max_aspect_ratio sampler_options trials",
    "RandomZoomOut": "fill side_range p",
    "ScaleJitter": "target_size scale_range interpolation antialias",
    "RandomAffine": "degrees translate scale shear interpolation fill center",
    "RandomRotation": "degrees interpolation expand center fill",
    "RandomVerticalFlip": "p",
    "RandomApply": "transforms p",
    "RandomChoice": "transforms p",
    "RandomOrder": "transforms",
}
OWN_DEFAULTS = {("RandomZoomOut", "fill"), ("RandomRotation", "fill"), ("RandomAffine", "fill")}  # a color, not 0
FLIP = {"NAME": "RandomVerticalFlip"}
MOVING = [
    {"NAME": "RandomIoUCrop"},
    {"NAME": "RandomZoomOut", "SIDE_RANGE": [1, 2], "FILL": [9, 9, 9]},
    {"NAME": "RandomAffine", "TRANSLATE": [0.4, 0.4], "SCALE": [0.8, 1.2]},
    {"NAME": "RandomChoice", "TRANSFORMS": [{"NAME": "ScaleJitter", "TARGET_SIZE": [200, 200]}, FLIP]},
]


def node_of(name):
    return {"NAME": name, "TRANSFORMS": [FLIP]} if name in LISTS else {"NAME": name}


def record():
    """A black image with four objects; object k has the gray 50 k, the label k, and crowd if k is even."""
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 35, 45], [70, 10, 110, 30], [10, 60, 30, 95], [60, 50, 115, 90]])
    for number, (x1, y1, x2, y2) in enumerate(boxes.int().tolist(), start=1):
        image[:, y1:y2, x1:x2] = 50 * number
    labels = torch.arange(1, 5)
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 120))
    target = {"boxes": boxes, "labels": labels, "image_id": 7, "crowd": labels % 2 == 0, "place": torch.ones(2)}
    return tv_tensors.Image(image), target


def draw(*nodes, seed=0):
    with seeded(seed):
        return build_transforms(nodes)(*record())


def test_the_table_has_the_transforms_of_this_page():
    assert {*PIXELS, *BOXES, *LISTS} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_are_parameters_of_torchvisions_oldest_newest_and_installed_version_with_their_defaults(name):
    installed = inspect.signature(getattr(v2, name)).parameters
    keys = config_keys(TRANSFORMS.get(name))
    for spec in keys.values():
        assert spec.parameter in PARAMETERS[name].split()
        default = installed[spec.parameter].default
        if default not in (None, inspect.Parameter.empty) and (name, spec.parameter) not in OWN_DEFAULTS:
            assert spec.default == (list(default) if isinstance(default, tuple) else default)


def test_what_a_crop_empties_is_dropped_from_every_tensor_with_a_row_per_box():
    counts = set()
    for seed in range(60):
        image, target = draw(*MOVING, seed=seed)
        boxes = target["boxes"]
        assert isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.canvas_size == tuple(image.shape[1:])
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(boxes) == len(target["labels"]) == len(target["crowd"])
        assert target["image_id"] == 7 and len(target["place"]) == 2

        # A box of 5 px or more still has its object's gray in its center.
        for (x1, y1, x2, y2), label, crowd in zip(boxes.tolist(), target["labels"], target["crowd"], strict=True):
            assert crowd == (label % 2 == 0)
            if min(x2 - x1, y2 - y1) > 5:
                assert abs(int(image[0, int(y1 + y2) // 2, int(x1 + x2) // 2]) - 50 * int(label)) <= 1
        counts.add(len(boxes))
    assert counts >= {1, 2, 3, 4}


def test_a_box_that_a_transform_inverts_is_not_dropped_silently():
    def mirror_wrongly(image, target):
        x1, y1, x2, y2 = target["boxes"].unbind(dim=1)
        boxes = torch.stack([120 - x1, y1, 120 - x2, y2], dim=1)
        return image, {**target, "boxes": tv_tensors.wrap(boxes, like=target["boxes"])}

    transforms = build_transforms([])
    transforms.transforms.insert(0, mirror_wrongly)
    assert len(transforms(*record())[1]["boxes"]) == 4


@pytest.mark.parametrize("name", [*PARAMETERS, "Augmentation"])
def test_a_random_transform_is_refused_in_test_also_inside_a_list(name):
    for node in (node_of(name), {"NAME": "RandomOrder", "TRANSFORMS": [node_of(name)]}):
        with pytest.raises(UserError, match=r"TRANSFORMS.TEST.0: \w+ draws random numbers"):
            build_test_transforms([node])


@pytest.mark.parametrize("name", [*PARAMETERS, "Augmentation"])
def test_workers_receive_a_transform_that_draws_the_same(name):
    transforms = build_transforms([node_of(name)])
    sent = pickle.loads(pickle.dumps(transforms))
    with seeded(3):
        image, target = transforms(*record())
    with seeded(3):
        again, same_target = sent(*record())
    assert torch.equal(image, again) and torch.equal(target["boxes"], same_target["boxes"])


@pytest.mark.parametrize("name", [*PIXELS, *BOXES])
@pytest.mark.parametrize("size", [(3, 15, 15), (3, 1, 500), (3, 2000, 20)])
def test_images_that_are_too_small_or_narrow_stay_as_they_are(name, size):
    image = tv_tensors.Image(torch.full(size, 100, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[0.0, 0, 1, 1]], format="XYXY", canvas_size=size[1:])
    target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64)}
    same_image, same_target = build_transforms([{"NAME": name}])(image, target)
    assert same_image is image and torch.equal(same_target["boxes"], boxes)


def test_noise_has_its_standard_deviation_and_no_noise_changes_no_pixel():
    image = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    for sigma, low, high in ((0.1, 25, 26), (0.0, 0, 0)):  # 0.1 * 255
        noisy, _ = build_transforms([{"NAME": "GaussianNoise", "SIGMA": sigma}])(image, {})
        assert noisy.dtype == torch.uint8 and low <= (noisy.float() - 128).std() <= high


def test_a_lower_jpeg_quality_loses_more():
    image, _ = record()
    errors = []
    for quality in (95, 40, 5):
        lossy, _ = draw({"NAME": "JPEG", "QUALITY": [quality, quality]})
        assert type(lossy) is type(image) and lossy.dtype == torch.uint8
        errors.append(float((lossy.float() - image.float()).abs().mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


def test_scale_jitter_fits_the_image_into_width_and_height():
    image, target = draw({"NAME": "ScaleJitter", "TARGET_SIZE": [240, 1000], "SCALE_RANGE": [1, 1]})
    assert image.shape == (3, 200, 240)  # 100 x 120, by 2
    assert target["boxes"][0].tolist() == [10, 10, 70, 90]


def test_color_changes_keep_boxes_as_they_are():
    for name in PIXELS:
        assert draw({"NAME": name})[1]["boxes"].tolist() == record()[1]["boxes"].tolist()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_the_sides_of_the_canvas_between_its_crop_and_its_zoom(preset):
    colors, canvas, crop, _ = PRESETS[preset]
    sides, same_colors = [], []
    for seed in range(40):
        image, target = draw({"NAME": "Augmentation", "PRESET": preset}, seed=seed)
        sides += [image.shape[1] / 100, image.shape[2] / 120]
        grays = {0, 50, 100, 150, 200, 124, 116, 104}
        same_colors.append(set(image.unique().tolist()) <= grays)
        assert len(target["boxes"]) >= 1
    assert crop - 0.02 <= min(sides) < 1 < max(sides) <= canvas
    assert all(same_colors) == (colors == 0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"NAME": "RandomZoomOut", "SIDE_RANGE": [3, 2]}, "side_range must be 2 numbers from 1 to 10, the smaller one"),
        ({"NAME": "RandomZoomOut", "FILL": [0]}, r"fill must be 3 numbers from 0 to 255, got \[0\]"),
        ({"NAME": "RandomIoUCrop", "MIN_SCALE": 0}, "min_scale must be from 0.1 to 1, got 0.0"),
        ({"NAME": "RandomApply", "TRANSFORMS": []}, "RandomApply: TRANSFORMS must be one transform or more, got"),
        ({"NAME": "RandomApply", "TRANSFORMS": [{"NAME": "JPEG", "P": 1}]}, r"TRANSFORMS.0.P: JPEG has no key P"),
        (
            {"NAME": "RandomChoice", "TRANSFORMS": [{"NAME": "Jpeg"}]},
            "called 'Jpeg'; did you mean JPEG",
        ),
        ({"NAME": "Augmentation", "PRESET": "smal"}, "'smal' is not one of its values; did you mean small"),
    ],
)
def test_a_wrong_node_is_refused_with_its_place(node, message):
    with pytest.raises(UserError, match=f"TRANSFORMS.TRAIN.0.*{message}"):
        build_transforms(load_config(opts=["TRANSFORMS.TRAIN", [node]]).TRANSFORMS.TRAIN)


def test_a_key_of_a_nested_transform_is_set_by_its_numbers():
    cfg = load_config(opts=["TRANSFORMS.TRAIN", [{"NAME": "RandomApply", "TRANSFORMS": [{"NAME": "JPEG"}]}]])
    cfg = override(cfg, {"TRANSFORMS.TRAIN.0.TRANSFORMS.0.QUALITY": [5, 6]})
    apply = build_transforms(cfg.TRANSFORMS.TRAIN).transforms[0]
    assert apply.p == 0.5 and apply.transforms[0].quality == [5, 6]
