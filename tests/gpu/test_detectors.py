"""Every way through the detector works on a CUDA GPU, in training and in detection, and in 16 bits."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detlite.distributed.launcher import BACKENDS
from detlite.engine.trainer import Trainer
from detlite.solver import build_optimizer
from detlite.testing.detectors import check_meta_architecture, detection_batch
from torchvision_twin import TorchvisionTwin

NUM_CLASSES = 3
VGG = {"NAME": "VGG", "DEPTH": 11, "WIDTH": 0.125, "FREEZE_AT": 0}
SMALL = {
    "MODEL.CLASSES": ["a", "b", "c"],
    "MODEL.BACKBONE": VGG,
    "MODEL.RPN.INSIDE_ONLY": False,
    "MODEL.RPN.MIN_SIZE": 1,
    "MODEL.RPN.HEAD.CONV_DIM": 64,
    "MODEL.RPN.ANCHOR_GENERATOR.SIZES": [16, 32],
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": 32,
}
FPN = {
    "MODEL.BACKBONE": {"NAME": "FPN", "BOTTOM_UP": VGG},
    "MODEL.ROI_HEADS.POOLER.NAME": "MultiLevelPooler",
}
HARD_NEGATIVES = {
    "MODEL.RPN.SAMPLER.NAME": "HardNegativeSampler",
    "MODEL.ROI_HEADS.SAMPLER.NAME": "HardNegativeSampler",
}
WAYS = {
    "RoIPool": {},
    "RoIAlign": {"MODEL.ROI_HEADS.POOLER.NAME": "RoIAlign"},
    "BatchNorm": {"MODEL.BACKBONE": {**VGG, "NORM": "BatchNorm"}},
    "FrozenBatchNorm": {"MODEL.BACKBONE": {**VGG, "NORM": "FrozenBatchNorm"}},
    "FPN": FPN,
    "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeRoIHeads"},
    "ATSS": {"MODEL.RPN.MATCHER.NAME": "ATSSMatcher"},
    "top-k": {"MODEL.RPN.MATCHER.NAME": "TopKMatcher"},
    "hard negatives": HARD_NEGATIVES,
    "focal": {"MODEL.RPN.SAMPLER.NAME": "AllSampler", "MODEL.RPN.CLASS_LOSS.NAME": "FocalLoss"},
    "GIoU": {"MODEL.ROI_HEADS.BOX_LOSS.NAME": "GIoULoss"},
    "LTRB": {"MODEL.RPN.BOX_CODER.NAME": "LTRBBoxCoder"},
    "conv head": {"MODEL.ROI_HEADS.BOX_HEAD.NAME": "ConvFCBoxHead"},
    "proposal network": {"MODEL.NAME": "ProposalNetwork"},
}
IN_16_BITS = ("RoIPool", "RoIAlign", "BatchNorm", "FPN", "cascade")
STEPS = 20  # enough for the loss scale of fp16 to fall until the gradients do not overflow


def opts(name, **changes):
    """Return the opts of a way."""
    values = {**SMALL, **WAYS[name], **changes}
    if name == "proposal network":
        values.pop("MODEL.ROI_HEADS.BOX_HEAD.FC_DIM")
    return [word for pair in values.items() for word in pair]


def trainer_of(cfg, model):
    return Trainer(model.train(), build_optimizer(cfg, model), lambda step: 1.0, [], max_iter=STEPS)


def is_equal(first, second):
    """Check that two images' detections are bitwise equal."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", WAYS)
def test_a_detector_keeps_its_contract(build, name):
    _, model = build(opts(name))
    check_meta_architecture(model, NUM_CLASSES)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", IN_16_BITS)
def test_a_step_in_16_bits_changes_the_weights(build, name, precision, device):
    if device == "cpu" and precision == "fp16":
        pytest.skip("gradients of convolutions in fp16 take minutes on a CPU")
    cfg, model = build(opts(name, **{"MODEL.PRECISION": precision, "SOLVER.OPTIMIZER.LR": 1e-4}))
    trainer = trainer_of(cfg, model)
    images, targets = detection_batch(NUM_CLASSES)
    weight = next(model.roi_heads.parameters())
    before = weight.detach().clone()
    for _ in range(STEPS):
        losses = trainer.compute_gradients(images, targets).losses
        trainer.update_weights()
        assert sum(losses.values()) < float("inf")
        if not torch.equal(weight, before):
            break
    assert not torch.equal(weight, before)
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32 and parameter.isfinite().all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", IN_16_BITS)
def test_converted_weights_detect_the_same_to_the_bit(build, name, precision):
    _, model = build(opts(name, **{"MODEL.PRECISION": precision, "MODEL.ROI_HEADS.SCORE_THRESHOLD": 0.0}))
    images, _ = detection_batch(NUM_CLASSES)
    with torch.inference_mode():
        before = model.eval()(images)
        model.convert_weights()
        after = model(images)
    assert all(len(found["scores"]) > 0 for found in before)
    assert all(is_equal(*pair) for pair in zip(before, after, strict=True))


def test_torchvisions_counterpart_of_a_detector_trains_a_step(build):
    cfg, model = build(opts("RoIAlign", **{"MODEL.ROI_HEADS.POOLER.ALIGNED": False}))
    twin = TorchvisionTwin(model)
    trainer = trainer_of(cfg, twin)
    images, targets = detection_batch(NUM_CLASSES)
    before = twin.model.roi_heads.box_head.fc6.weight.detach().clone()
    trainer.compute_gradients(images, [targets[0]] * 2)
    trainer.update_weights()
    assert twin.model.roi_heads.box_head.fc6.weight.device == model.pixel_mean.device
    assert not torch.equal(twin.model.roi_heads.box_head.fc6.weight, before)


@pytest.mark.filterwarnings("default")  # of torch, about its own groups
def test_a_group_of_processes_averages_gradients_and_shares_numbers(build, device):
    _, model = build(opts("BatchNorm"))
    images, targets = detection_batch(NUM_CLASSES)
    dist.init_process_group(BACKENDS[device.split(":")[0]], store=dist.HashStore(), rank=0, world_size=1)
    try:
        losses = DistributedDataParallel(model.train(), gradient_as_bucket_view=True)(images, targets)
        sum(losses.values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

        # What a run exchanges: means on the CPU, buffers on the device, and objects.
        numbers = torch.tensor([1.5, 2.5], dtype=torch.float64)
        dist.all_reduce(numbers)
        assert numbers.tolist() == [1.5, 2.5]
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
        gathered = [None]
        dist.gather_object({"scores": torch.ones(2)}, gathered)
        assert gathered[0]["scores"].tolist() == [1, 1]
    finally:
        dist.destroy_process_group()


def test_images_may_be_on_the_device_already(build, device):
    _, model = build(opts("RoIPool"))
    images, _ = detection_batch(NUM_CLASSES)
    with torch.inference_mode():
        expected = model.eval()(images)
        found = model([image.to(device) for image in images])
    assert all(is_equal(*pair) for pair in zip(expected, found, strict=True))
