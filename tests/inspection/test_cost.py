"""Parameters and FLOPs of the parts, compared with arithmetic on the layers."""

import pytest
import torch

from detlite.cli import main
from detlite.config import load_config
from detlite.inspection.cost import costs, format_cost
from detlite.modeling import build_model
from detlite.ops.convolution import Conv3x3

IMAGE = torch.zeros(3, 64, 96, dtype=torch.uint8)
NARROW = {"BACKBONE.DEPTH": 11, "BACKBONE.WIDTH": 0.0625, "RPN.POST_NMS_TOP_N_TEST": 20}
PYRAMID = {
    "BACKBONE.NAME": "FPN",
    "BACKBONE.OUT_CHANNELS": 8,
    "BACKBONE.BOTTOM_UP.DEPTH": 11,
    "BACKBONE.BOTTOM_UP.WIDTH": 0.0625,
    "ROI_HEADS.POOLER.NAME": "MultiLevelPooler",
    "ROI_HEADS.BOX_HEAD.FC_DIM": 16,
    "RPN.ANCHOR_GENERATOR.SIZES": [64],
}
OTHERS = {
    "pyramid": PYRAMID,
    "cascade": {**NARROW, "ROI_HEADS.NAME": "CascadeRoIHeads", "ROI_HEADS.BOX_HEAD.FC_DIM": 16},
    "proposals": {**NARROW, "NAME": "ProposalNetwork"},
}


def measure(changes):
    """Return {name: cost} of a detector, and the detector."""
    torch.manual_seed(0)
    opts = [word for key, value in changes.items() for word in (f"MODEL.{key}", value)]
    model = build_model(load_config(opts=["MODEL.DEVICE", "cpu", *opts]))
    return {cost.name: cost for cost in costs(model, IMAGE)}, model


def layers(*sizes):
    """Return the parameters, with biases, and the FLOPs of layers (inputs, outputs, kernel, positions)."""
    return (
        sum(inputs * outputs * kernel**2 + outputs for inputs, outputs, kernel, _ in sizes),
        sum(2 * inputs * outputs * kernel**2 * positions for inputs, outputs, kernel, positions in sizes),
    )


def test_parameters_flops_and_shapes_of_the_classic_detector_are_those_of_its_layers():
    found, model = measure(NARROW | {"RPN.HEAD.CONV_DIM": 16, "ROI_HEADS.BOX_HEAD.FC_DIM": 16})
    convs = [(3, 4, 3, 64 * 96), (4, 8, 3, 32 * 48), (8, 16, 3, 16 * 24), (16, 16, 3, 16 * 24)]
    convs += [(16, 32, 3, 8 * 12), (32, 32, 3, 8 * 12), (32, 32, 3, 4 * 6), (32, 32, 3, 4 * 6)]
    proposals = found["rpn"].shapes[0][1][0]
    assert 0 < proposals <= 20
    expected = {
        "backbone": layers(*convs),
        "rpn.head": layers((32, 16, 3, 24), (16, 9 * 2, 1, 24), (16, 9 * 4, 1, 24)),
        "roi_heads.pooler": (0, 0),
        "roi_heads.box_head": layers((32 * 49, 16, 1, proposals), (16, 16, 1, proposals)),
        "roi_heads.predictor": layers((16, 21, 1, proposals), (16, 84, 1, proposals)),
    }
    assert {name: (found[name].trainable + found[name].frozen, found[name].flops) for name in expected} == expected
    frozen = layers(*convs[:2])[0]  # conv1 and conv2
    assert (found["backbone"].frozen, found[""].frozen) == (frozen, frozen)
    assert found["backbone"].shapes == [("conv5", (1, 32, 4, 6))]
    assert found["rpn.head"].shapes == [("", (1, 24 * 9, 2)), ("", (1, 24 * 9, 4))]
    assert found["roi_heads.pooler"].shapes == [("", (proposals, 32, 7, 7))]
    assert found[""].flops == sum(flops for _, flops in expected.values())


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_the_parts_of_any_architecture_add_up_to_the_whole(changes):
    found, model = measure(changes)
    whole = found.pop("")
    assert whole.trainable + whole.frozen == sum(parameter.numel() for parameter in model.parameters())
    ends = [cost for name, cost in found.items() if not any(other.startswith(f"{name}.") for other in found)]
    for count in ("trainable", "frozen", "flops"):
        assert sum(getattr(cost, count) for cost in ends) == getattr(whole, count)
    assert all(cost.calls for cost in ends)


def test_a_pyramid_shows_each_level_and_what_is_below_it():
    found, _ = measure(PYRAMID)
    assert found["backbone"].shapes == [
        ("conv3", (1, 8, 16, 24)),
        ("conv4", (1, 8, 8, 12)),
        ("conv5", (1, 8, 4, 6)),
        ("pool", (1, 8, 2, 3)),
    ]
    assert found["backbone.bottom_up"].part == "VGG"


def test_a_pooler_that_stages_share_is_one_part_called_by_each():
    found, _ = measure(OTHERS["cascade"])
    assert [name for name in found if name.endswith("pooler")] == ["roi_heads.stages.0.pooler"]
    assert found["roi_heads.stages.0.pooler"].calls == 3
    assert [name for name in found if name.endswith("predictor")] == [
        f"roi_heads.stages.{stage}.predictor" for stage in range(3)
    ]


def test_counting_leaves_the_model_as_it_was():
    model = measure(OTHERS["proposals"])[1]
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_table_names_the_size_and_the_classes(tiny_opts):
    text = format_cost(load_config(opts=tiny_opts(MODEL__CLASSES=["cat", "dog"])), (48, 80))
    assert "One image of 48 x 80 through the untrained detector of 2 classes" in text
    assert "roi_heads.predictor" in text and "20 x 3, 20 x 3 x 4" in text  # two classes and the background


def test_the_command_prints_a_table(tiny_opts, capsys):
    opts = [str(word) if not isinstance(word, str) else word for word in tiny_opts()]
    assert main(["--cost", "--image-size", "64", "64", "--set", *opts], "explain") == 0
    assert "\nbackbone " in capsys.readouterr().out


def test_the_cost_shows_frozen_parameters_and_the_rates_of_each_trained_group(tiny_opts):
    groups = [["rpn", 0.5, 0.0]]
    text = format_cost(
        load_config(opts=tiny_opts(MODEL__FREEZE=["backbone"], SOLVER__OPTIMIZER__GROUPS=groups)), (64, 64)
    )
    rows = [line.split() for line in text.splitlines()]
    (backbone,) = [row for row in rows if row[:1] == ["backbone"]]
    assert backbone[2] == "0" and backbone[3] != "0"
    (base,) = [row for row in rows if row[:1] == ["weights"] and row[1] != "of"]
    (rpn,) = [row[3:] for row in rows if row[:3] == ["weights", "of", "rpn"]]
    assert float(rpn[1]) == pytest.approx(float(base[2]) / 2) and rpn[2] == "0"


def test_the_faster_algorithm_for_many_channels_costs_as_many_flops_as_the_plain_one():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Conv3x3(128, 256)

        def forward(self, images):
            return self.layer(images[0][None])

    with torch.no_grad():
        (cost,) = costs(Wide(), torch.zeros(128, 40, 40))
    assert cost.flops == layers((128, 256, 3, 40 * 40))[1]
