import itertools
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from detlite.data import CocoDataset, ShapesDataset, build_transforms, test_loader, training_loader
from detlite.data.image_sampler import UniformImageSampler
from detlite.data.loader import TrainingBatchSampler
from detlite.data.packing import PackedBatch, pack
from detlite.errors import UserError
from detlite.seeding import derive_seed

AUGMENTATION = [{"NAME": "ResizeShortSide", "SIZE": [32, 40, 48]}, {"NAME": "RandomHorizontalFlip"}]


def train(num_workers=0, first_batch=0, seed=5, dataset=None, transforms=None):
    return training_loader(
        dataset or ShapesDataset(num_images=7, image_size=32),
        transforms or build_transforms(AUGMENTATION),
        batch_size=3,
        seed=seed,
        num_workers=num_workers,
        group_by_aspect_ratio=True,
        first_batch=first_batch,
    )


def batch_sampler(sizes, *given, **keys):
    return TrainingBatchSampler(sizes, UniformImageSampler(sizes, None), *given, **keys)


def take(loader, number):
    return list(itertools.islice(loader, number))


def assert_same_batches(batches, expected):
    assert len(batches) == len(expected) > 0
    for (images, targets), (expected_images, expected_targets) in zip(batches, expected, strict=True):
        for image, expected_image in zip(images, expected_images, strict=True):
            assert torch.equal(image, expected_image)
        for target, expected_target in zip(targets, expected_targets, strict=True):
            assert target.keys() == expected_target.keys()
            for key, value in target.items():
                same = (
                    torch.equal(value, expected_target[key])
                    if torch.is_tensor(value)
                    else value == expected_target[key]
                )
                assert same, key


def test_batches_are_lists_of_plain_tensors_and_dicts():
    images, targets = next(iter(train()))
    assert len(images) == len(targets) == 3
    for image, target in zip(images, targets, strict=True):
        assert type(image) is type(target["boxes"]) is type(target["labels"]) is torch.Tensor
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        assert target["original_size"] == (32, 32)
        assert target["boxes"].max() <= image.shape[-1]
        assert target["seed"] in {derive_seed(5, 0, index) for index in range(7)}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_bit(num_workers):
    assert_same_batches(take(train(num_workers), 5), take(train(), 5))


def test_spawned_workers_change_no_bit():
    loader = train(num_workers=1)
    loader.multiprocessing_context = "spawn"
    assert_same_batches(take(loader, 3), take(train(), 3))


KILLED_WORKERS = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
from test_loader import train

batches = iter(train(num_workers=2))
next(batches)
for worker in multiprocessing.active_children():
    worker.kill()
"""


def test_killed_workers_leave_no_temporary_files(tmp_path):
    command = [sys.executable, "-c", KILLED_WORKERS, os.path.dirname(__file__)]
    subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert os.listdir(tmp_path) == []


class Unusual:
    """A transform to images of several sizes, with further values in the target."""

    def __init__(self, boxes_type=torch.float32):
        self.boxes_type = boxes_type

    def __call__(self, image, target):
        size = image.shape[-1] - int(target["image_id"]) % 3  # so that sizes differ within a batch
        masks = torch.arange(size)[:, None] < torch.arange(5)
        boxes = target["boxes"].as_subclass(torch.Tensor).to(self.boxes_type)
        more = {"masks": masks, "weight": torch.tensor(0.5), "words": ("a", [torch.ones(2)])}
        return image[:, :size].double(), {**target, **more, "boxes": boxes}


@pytest.mark.parametrize("boxes_type", [torch.float32, torch.float64])
def test_workers_change_no_value_shape_or_type(boxes_type):
    (images, targets) = take(train(1, transforms=Unusual(boxes_type)), 1)[0]
    (expected_images, expected_targets) = take(train(0, transforms=Unusual(boxes_type)), 1)[0]
    assert len({image.shape for image in images}) > 1
    for image, expected in zip(images, expected_images, strict=True):
        assert torch.equal(image, expected) and image.dtype == expected.dtype == torch.float64
    for target, expected in zip(targets, expected_targets, strict=True):
        assert target.keys() == expected.keys() and target["boxes"].dtype == boxes_type
        assert target.pop("words")[0] == "a" and target["original_size"] == (32, 32)
        for key, value in target.items():
            assert type(value) is type(expected[key])
            if torch.is_tensor(value):
                assert torch.equal(value, expected[key]) and value.dtype == expected[key].dtype


def batch_of_objects(*counts):
    images, targets = [], []
    for count in counts:
        images.append(torch.rand(3, 4, 5))
        targets.append({"boxes": torch.rand(count, 4), "labels": torch.ones(count).long(), "image_id": count})
    return images, targets


def test_a_packed_batch_has_one_tensor_and_a_target_keeps_no_other_alive():
    images, targets = batch_of_objects(2, 0, 1)
    packed = pack(images, targets, ["a message"])
    assert sum(torch.is_tensor(part) for part in packed) == 1 and packed.pixels.shape == (180,)
    unpacked_images, unpacked_targets, messages = packed.unpack()
    assert messages == ["a message"]
    for image, target, same_image, same in zip(images, targets, unpacked_images, unpacked_targets, strict=True):
        assert torch.equal(image, same_image) and target["image_id"] == same["image_id"]
        for key in ("boxes", "labels"):
            assert torch.equal(target[key], same[key])
            assert same[key].untyped_storage().nbytes() == same[key].nbytes


def test_a_batch_of_several_types_or_without_images_is_not_packed():
    images, targets = batch_of_objects(1, 2)
    assert isinstance(pack(images, targets, []), PackedBatch)
    assert not isinstance(pack([images[0], images[1].half()], targets, []), PackedBatch)
    assert pack([], [], ["bad"]) == ([], [], ["bad"])


def test_going_on_at_a_batch_gives_the_batches_from_there():
    assert_same_batches(take(train(first_batch=4), 3), take(train(), 7)[4:])


def test_the_seed_decides_on_order_and_augmentation():
    ids = [[target["image_id"] for _, targets in take(train(seed=s), 4) for target in targets] for s in (5, 5, 6)]
    assert ids[0] == ids[1] != ids[2]


class GlobalDraws:
    """A transform that draws from every global generator."""

    def __call__(self, image, target):
        return image, {**target, "draws": (random.random(), np.random.rand(), torch.rand(()).item())}


def test_the_callers_random_state_is_neither_read_nor_changed():
    runs = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        expected = random.random(), np.random.rand(), torch.rand(()).item()
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        batches = take(train(transforms=GlobalDraws()), 3)
        assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
        runs.append([target["draws"] for _, targets in batches for target in targets])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 9


def test_the_test_loader_gives_each_image_once_in_order():
    dataset = ShapesDataset(num_images=7, image_size=32)
    loader = test_loader(
        dataset, build_transforms([{"NAME": "ResizeShortSide", "SIZE": 64}]), batch_size=3, num_workers=0
    )
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [[target["image_id"] for target in targets] for _, targets in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    pairs = [pair for images, targets in batches for pair in zip(images, targets, strict=True)]
    for index, (image, target) in enumerate(pairs):
        assert image.shape == (3, 64, 64) and target["original_size"] == (32, 32)
        assert torch.equal(target["boxes"], 2 * dataset[index][1]["boxes"].as_subclass(torch.Tensor))
    assert_same_batches(list(loader), batches)


def test_the_test_loader_with_workers_gives_the_same_every_time():
    dataset, transforms = ShapesDataset(num_images=5, image_size=32), build_transforms(AUGMENTATION)
    expected = list(test_loader(dataset, transforms, batch_size=2, num_workers=0))
    loader = test_loader(dataset, transforms, batch_size=2, num_workers=2)
    assert_same_batches(list(loader), expected)
    assert_same_batches(list(loader), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_in_a_worker_is_the_same_one_line(tmp_path, num_workers):
    rows = [{"id": 1, "file_name": "gone.png", "height": 4, "width": 4}]
    content = {"images": rows, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    dataset = CocoDataset(annotations=str(tmp_path / "x.json"), images=str(tmp_path))
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path / 'gone.png'))}: no such image file$"):
        take(train(num_workers, dataset=dataset), 1)


SIZES = np.array([[10, 20], [20, 10], [10, 11], [10, 10], [5, 6], [30, 20], [1, 2], [7, 9]])  # (height, width)


@pytest.mark.parametrize("group", [False, True])
def test_every_epoch_draws_every_image_once_in_an_order_of_its_own(group):
    batches = take(batch_sampler(SIZES, 3, 0, group), 40)
    assert all(len(batch) == 3 for batch in batches)
    draws = sum(batches, [])
    assert len(set(draws)) == len(draws)
    orders = [[index for epoch, index in draws if epoch == number] for number in range(8)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_grouped_batches_are_all_landscape_or_not_at_all():
    landscape = SIZES[:, 1] > SIZES[:, 0]
    kinds = [{bool(landscape[index]) for _, index in batch} for batch in take(batch_sampler(SIZES, 3, 0, True), 40)]
    assert all(len(kind) == 1 for kind in kinds) and {True} in kinds and {False} in kinds
    mixed = [{bool(landscape[index]) for _, index in batch} for batch in take(batch_sampler(SIZES, 3, 0, False), 40)]
    assert {True, False} in mixed


def test_leaving_out_batches_is_slicing():
    batches = take(batch_sampler(SIZES, 3, 9, True), 30)
    assert take(batch_sampler(SIZES, 3, 9, True, first_batch=11), 19) == batches[11:]


def test_the_shares_of_all_processes_are_together_the_batches_of_one():
    batches = take(batch_sampler(SIZES, 4, 9, True), 10)
    shares = [take(batch_sampler(SIZES, 4, 9, True, share=(number, 2)), 10) for number in range(2)]
    assert all(len(share) == 2 for batch in shares for share in batch)
    assert [[own for pair in zip(*pair, strict=True) for own in pair] for pair in zip(*shares, strict=True)] == batches


def test_the_test_images_are_shared_by_whole_batches():
    dataset = ShapesDataset(num_images=7, image_size=32)
    ids = [
        [
            [target["image_id"] for target in targets]
            for _, targets in test_loader(dataset, build_transforms([]), batch_size=2, num_workers=0, share=(number, 3))
        ]
        for number in range(3)
    ]
    assert ids == [[[0, 1], [6]], [[2, 3]], [[4, 5]]]


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = take(batch_sampler(SIZES[:2], 5, 0, False), 1)
    assert [epoch for epoch, _ in batch] == [0, 0, 1, 1, 2]
