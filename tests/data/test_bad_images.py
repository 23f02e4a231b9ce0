"""Images that cannot be read, and DATASETS.BAD_IMAGE, in training and in test."""

import itertools
import json

import pytest
import torch
from PIL import Image

from detlite.config import load_config
from detlite.data import CocoDataset, ImageError, build_transforms, read_image, test_loader, training_loader
from detlite.data.image_files import read_header
from detlite.engine.train import train
from detlite.errors import UserError
from detlite.evaluation.coco import CocoEvaluator
from detlite.evaluation.inference import evaluate
from detlite.seeding import derive_seed

TRUNCATED, MISSING, OTHER_SIZE = 2, 3, 5  # of seven images
READABLE = {0: 0, 1: 1, 2: 4, 3: 4, 4: 4, 5: 6, 6: 6}  # the image that is given for each


@pytest.fixture
def folder(tmp_path):
    """Seven images of 40 x 32 with one object each. Three images are bad."""
    images, annotations = [], []
    for index in range(7):
        Image.effect_noise((40, 32), 50).save(tmp_path / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 40, "height": 32})
        annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": [index, 2, 12, 16]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    truncated = tmp_path / f"{TRUNCATED}.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    (tmp_path / f"{MISSING}.jpg").unlink()
    Image.new("RGB", (32, 40)).save(tmp_path / f"{OTHER_SIZE}.jpg")
    return tmp_path


@pytest.fixture
def dataset(folder):
    return CocoDataset(annotations=str(folder / "x.json"), images=str(folder))


def loader(dataset, num_workers=0, bad_image="skip"):
    return training_loader(
        dataset,
        build_transforms([{"NAME": "RandomHorizontalFlip"}]),
        batch_size=3,
        seed=5,
        num_workers=num_workers,
        group_by_aspect_ratio=False,
        bad_image=bad_image,
    )


def draws(batches):
    return [(image, target) for images, targets in batches for image, target in zip(images, targets, strict=True)]


@pytest.mark.parametrize("bad", [TRUNCATED, MISSING, OTHER_SIZE])
def test_a_bad_image_is_an_error_of_its_own_that_names_the_file(dataset, bad):
    with pytest.raises(ImageError, match=f"{bad}.jpg: "):
        dataset[bad]


def test_by_default_a_bad_image_stops(dataset):
    with pytest.raises(ImageError, match=r"[235]\.jpg"):
        list(itertools.islice(loader(dataset, bad_image="error"), 3))


def test_skipping_takes_the_next_readable_image_with_the_augmentation_of_the_draw(dataset):
    seeds = {derive_seed(5, epoch, index): index for epoch in range(3) for index in range(7)}
    targets = [target for _, target in draws(itertools.islice(loader(dataset), 7))]
    drawn = [seeds[target["seed"]] for target in targets]
    assert sorted(drawn) == sorted([*range(7)] * 3)
    assert [target["image_id"] for target in targets] == [READABLE[index] for index in drawn]
    assert all(target["index"] == target["image_id"] for target in targets)


def test_workers_skip_alike(dataset):
    first, second = (draws(itertools.islice(loader(dataset, workers), 7)) for workers in (0, 2))
    for (image, target), (other_image, other_target) in zip(first, second, strict=True):
        assert torch.equal(image, other_image) and torch.equal(target["boxes"], other_target["boxes"])
        assert (target["index"], target["seed"]) == (other_target["index"], other_target["seed"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_skipped_is_counted_batch_by_batch_and_each_file_is_named_once(dataset, caplog, num_workers):
    batches = loader(dataset, num_workers)
    counts = [batches.bad_images for _ in itertools.islice(batches, 7)]
    assert sum(counts) == 3 * (2 + 1 + 1)  # image 2 meets 3 on its way to 4
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 3 and all("BAD_IMAGE skip" in message for message in named)


def test_nothing_readable_at_all_is_an_error(dataset, folder):
    for file in folder.glob("*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match=r"\.jpg: no such image file; and no other image can be read"):
        next(iter(loader(dataset)))


class Perfect(torch.nn.Module):
    """Finds the object of each readable image, (index, 2, 12, 16), by the order of the images."""

    def __init__(self):
        super().__init__()
        self.left = iter([0, 1, 4, 6])

    def forward(self, images):
        return [
            {"boxes": torch.tensor([[x, 2.0, x + 12, 18]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
            for _, x in zip(images, self.left, strict=False)
        ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_in_test_the_objects_of_a_skipped_image_are_missed(dataset, caplog, batch_size):
    evaluator = CocoEvaluator(dataset)
    batches = test_loader(dataset, build_transforms([]), batch_size=batch_size, num_workers=0, bad_image="skip")
    evaluate(Perfect(), batches, [evaluator])
    assert evaluator.evaluate()["bbox"]["AR100"] == pytest.approx(4 / 7)
    assert "3 bad images were left out" in caplog.text


def test_a_run_goes_on_and_puts_the_count_into_the_log_and_the_metrics(folder, tiny_opts, tmp_path):
    node = {"NAME": "CocoDataset", "ANNOTATIONS": str(folder / "x.json"), "IMAGES": str(folder)}
    opts = tiny_opts(DATASETS__TRAIN=[node], DATASETS__TEST=node, DATASETS__BAD_IMAGE="skip", SOLVER__MAX_ITER=7)
    train(load_config(opts=opts))
    lines = [json.loads(line) for line in (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["bad_images"] for line in lines) == 2 * (2 + 1 + 1)  # 7 steps of 2: two epochs
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "8 bad images were replaced by others" in log and "3 bad images were left out" in log
    assert len(list((tmp_path / "output" / "pictures").glob("*.png"))) == 2


def test_only_formats_of_photographs_are_opened(tmp_path, monkeypatch):
    """Pillow runs Ghostscript for an EPS file, under any name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.eps")
    (tmp_path / "0.eps").rename(tmp_path / "0.jpg")
    monkeypatch.setattr("subprocess.check_call", lambda *args, **options: pytest.fail("a program was started"))
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"0\.jpg: cannot be read as an image: cannot identify image file"):
            read(tmp_path / "0.jpg")
