"""A user's program with the names that others rely on: a strict type checker must find nothing wrong in it."""

from pathlib import Path

import torch

import detlite
from detlite import Detector, data, evaluation, testing
from detlite.config import load_config
from detlite.modeling import build_model
from detlite.registry import MATCHERS, registries
from detlite.solver import build_optimizer


@MATCHERS.register()
class NearestMatcher:
    """A part with one key."""

    def __init__(self, *, k: int = 9) -> None:
        self.k = k

    def __call__(self, boxes: torch.Tensor, gt_boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match nothing."""
        return torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64)


def run(folder: Path) -> list[str]:
    """Train, test and detect."""
    cfg = load_config("detlite:quickstart", ["SOLVER.MAX_ITER", 20, "OUTPUT_DIR", str(folder)], ["my_parts.py"])
    cfg = load_config(folder / "my.yaml")
    model: torch.nn.Module = build_model(cfg)
    optimizer: torch.optim.Optimizer = build_optimizer(cfg, model)
    optimizer.step()
    results: dict[str, object] = detlite.train(cfg, resume=True)
    results = detlite.test(cfg, folder / "model_final.pth", page=True)
    detector = Detector.from_checkpoint(folder / "model_final.pth", score_threshold=0.5, opts=["MODEL.DEVICE", "cpu"])
    names: list[str] = detector("photo.jpg")["names"]
    return [*names, *detector.id2label.values(), *results, *MATCHERS, *map(str, registries())]


def prepare(folder: Path) -> None:
    """Use the data sets, transforms and evaluators."""
    cfg = load_config()
    dataset = data.build_dataset(cfg.DATASETS.TEST)
    shapes = data.ShapesDataset(num_images=4)
    coco = data.CocoDataset(root=str(folder))
    voc, yolo = data.PascalVOCDataset(), data.YoloDataset()
    image, target = shapes[0]
    pixels: torch.Tensor = data.plain_tensor(image)
    transforms = data.build_transforms(cfg.TRANSFORMS.TRAIN)
    data.refuse_draws([data.ResizeShortSide(size=240)], "here")
    loader = data.training_loader(
        data.concatenate([dataset, coco, voc, yolo]),
        transforms,
        batch_size=2,
        seed=0,
        num_workers=0,
        group_by_aspect_ratio=True,
        image_sampler=data.build_image_sampler(cfg.DATASETS.IMAGE_SAMPLER, dataset),
    )
    tests = data.test_loader(dataset, data.build_test_transforms([]), batch_size=1, num_workers=0)
    faults = data.Faults()
    with data.seeded(0):
        print(len(loader), len(tests), len(shapes), pixels, target, faults, data.read_image(folder / "a.png"))
    for evaluator in (
        evaluation.CocoEvaluator(dataset),
        evaluation.PascalVOCEvaluator(dataset),
        evaluation.DetectionAnalysis(dataset),
    ):
        evaluator.reset()
        evaluator.process([{}], [{}])
        scores: dict[str, object] = evaluator.evaluate()
        print(scores, evaluator.summary())


def check() -> None:
    """Check parts by their contracts."""
    matcher = MATCHERS.get("MaxIoUMatcher")(foreground_iou=0.6)
    testing.check_matcher(matcher)
    testing.check_matcher(NearestMatcher(k=3))
    testing.check_part(MATCHERS, "NearestMatcher")
    testing.check_anchor_generator(object(), [16])
    testing.check_dataset(data.ShapesDataset(), count=2)
    testing.check_hook(object)
