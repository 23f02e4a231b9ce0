"""Which parameter learns at which rate, and that one step is what arithmetic says."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detlite.errors import UserError
from detlite.registry import OPTIMIZERS
from detlite.solver import SGD, AdamW, build_optimizer, restore_optimizer
from detlite.solver.optimizers import parameter_groups


def everything():
    """Layers of every kind, one of them frozen, one weight shared."""
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "batch_norm": nn.BatchNorm2d(4),
            "group_norm": nn.GroupNorm(2, 4),
            "layer_norm": nn.LayerNorm(4),
            "frozen": nn.Conv2d(4, 4, 1).requires_grad_(False),
            "linear": nn.Linear(4, 4),
            "tied": nn.Linear(4, 4),
            "attention": nn.MultiheadAttention(4, 1),
        }
    )
    model["tied"].weight = model["linear"].weight
    model["again"] = model["conv"]
    return model


def names_by_group(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


FACTORS = {"bias_lr_factor": 2.0, "bias_decay_factor": 0.5, "norm_decay_factor": 0.25}


def test_every_trainable_parameter_is_in_one_group_once():
    model = everything()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.01, **FACTORS)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_weights_biases_and_norms_are_told_apart():
    model = everything()
    groups = names_by_group(model, parameter_groups(model, lr=0.1, weight_decay=0.01, **FACTORS))
    assert groups["weights"] == {
        "conv.weight",
        "linear.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert groups["biases"] == {
        "conv.bias",
        "linear.bias",
        "tied.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
    }
    assert groups["norms"] == {
        f"{layer}_norm.{name}" for layer in ("batch", "group", "layer") for name in ("weight", "bias")
    }


def test_factors_apply_to_their_group_alone():
    groups = {group["name"]: group for group in parameter_groups(everything(), lr=0.1, weight_decay=0.01, **FACTORS)}
    rates = {name: (group["lr"], group["initial_lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "weights": (0.1, 0.1, 0.01),
        "biases": (0.1 * 2, 0.1 * 2, 0.01 * 0.5),
        "norms": (0.1, 0.1, 0.01 * 0.25),
    }


def test_a_model_without_norms_or_biases_has_one_group():
    groups = parameter_groups(nn.Linear(2, 2, bias=False), lr=0.1, weight_decay=0.01, **FACTORS)
    assert [group["name"] for group in groups] == ["weights"]


def test_defaults_are_those_of_py_faster_rcnn():
    optimizer = SGD(nn.Linear(2, 2))
    weights, biases = optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"], weights["momentum"]) == (0.001, 0.0005, 0.9)
    assert (biases["lr"], biases["weight_decay"], biases["momentum"]) == (0.002, 0.0005, 0.9)


def test_two_steps_are_caffes_arithmetic():
    model = nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(4.0)
    optimizer = SGD(model, lr=0.1, momentum=0.5, weight_decay=0.01, bias_lr_factor=2.0, bias_decay_factor=0.0)
    for _ in range(2):
        model.weight.grad = torch.full((1, 1), 3.0, dtype=torch.double)
        model.bias.grad = torch.full((1,), 5.0, dtype=torch.double)
        optimizer.step()
    first = 3 + 0.01 * 2
    weight = 2 - 0.1 * first
    second = 0.5 * first + 3 + 0.01 * weight
    assert model.weight.item() == pytest.approx(weight - 0.1 * second, rel=1e-12)
    assert model.bias.item() == pytest.approx(4 - 0.2 * 5 - 0.2 * (0.5 * 5 + 5), rel=1e-12)


def test_frozen_parameters_stay():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = SGD(model, lr=1.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def test_the_fused_kernel_is_used_where_it_works_and_only_there():
    assert SGD(nn.Linear(2, 2)).defaults["fused"] is True
    assert SGD(nn.Linear(2, 2, device="meta")).defaults["fused"] is None
    complex_model = nn.Linear(2, 2, dtype=torch.complex64)
    optimizer = SGD(complex_model)
    assert optimizer.defaults["fused"] is None
    complex_model(torch.ones(1, 2, dtype=torch.complex64)).abs().sum().backward()
    optimizer.step()


def test_fused_and_plain_steps_agree():
    torch.manual_seed(0)
    model, plain = nn.Linear(7, 5), nn.Linear(7, 5)
    plain.load_state_dict(model.state_dict())
    fused = SGD(model, lr=0.1)
    reference = torch.optim.SGD(
        [{"params": [plain.weight]}, {"params": [plain.bias], "lr": 0.2}],
        lr=0.1, momentum=0.9, weight_decay=0.0005, foreach=False,
    )  # fmt: skip
    for _ in range(3):
        inputs = torch.randn(4, 7)
        for net, optimizer in ((model, fused), (plain, reference)):
            optimizer.zero_grad()
            net(inputs).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_a_wholly_frozen_model_is_refused():
    with pytest.raises(UserError, match="no trainable parameter"):
        SGD(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("key", ["LR", "WEIGHT_DECAY", "BIAS_LR_FACTOR", "BIAS_DECAY_FACTOR", "MOMENTUM"])
def test_negative_numbers_are_refused(key):
    with pytest.raises(UserError, match="-1"):
        OPTIMIZERS.build({"NAME": "SGD", "LR": 1.0, "WEIGHT_DECAY": 1.0, key: -1.0}, nn.Linear(2, 2))


def test_build_optimizer_reads_its_node():
    optimizer = build_optimizer(config(batch_size=2, reference_batch_size=0), nn.Linear(2, 2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]


def test_rates_are_in_proportion_to_the_batch_where_a_reference_is_given():
    optimizer = build_optimizer(config(batch_size=12, reference_batch_size=8), nn.Linear(2, 2))
    rates = [(group["lr"], group["initial_lr"]) for group in optimizer.param_groups]
    assert rates == [(0.5 * 12 / 8, 0.5 * 12 / 8), (2.0 * 12 / 8, 2.0 * 12 / 8)]


def config(batch_size, reference_batch_size):
    node = {"NAME": "SGD", "LR": 0.5, "BIAS_LR_FACTOR": 4.0}
    solver = SimpleNamespace(OPTIMIZER=node, BATCH_SIZE=batch_size, REFERENCE_BATCH_SIZE=reference_batch_size)
    return SimpleNamespace(SOLVER=solver)


def test_initial_rates_survive_a_saved_state():
    model = nn.Linear(2, 2)
    optimizer = SGD(model, lr=0.5)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.25
    resumed = SGD(model, lr=0.5)
    resumed.load_state_dict(optimizer.state_dict())
    assert [(group["lr"], group["initial_lr"]) for group in resumed.param_groups] == [(0.125, 0.5), (0.25, 1.0)]


def test_adamw_decays_weights_alone_and_takes_one_rate():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer = AdamW(model, lr=0.01, weight_decay=0.1, beta1=0.8)
    assert isinstance(optimizer, torch.optim.AdamW)
    rows = {
        group["name"]: (group["lr"], group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups
    }
    assert rows == {"weights": (0.01, 0.01, 0.1), "biases": (0.01, 0.01, 0.0), "norms": (0.01, 0.01, 0.0)}
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)


def test_a_step_of_adamw_is_the_papers():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = AdamW(model, lr=0.1, weight_decay=0.5)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(2 - 0.1 * 0.5 * 2 - 0.1 * 1, abs=1e-6)  # the first step is lr long


def stepped(optimizer, parameter):
    """Take a step with the gradient 1, as the trainer does, and return the value."""
    parameter.grad = torch.ones_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    optimizer.step()
    return parameter.tolist()


def test_a_restored_optimizer_keeps_its_momentum_and_takes_the_settings_that_changed():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)

    def build(**keys):
        node = {"NAME": "SGD", "LR": 0.5, "MOMENTUM": 0.5, "WEIGHT_DECAY": 0.0, **keys}
        solver = SimpleNamespace(OPTIMIZER=node, BATCH_SIZE=1, REFERENCE_BATCH_SIZE=0)
        return build_optimizer(SimpleNamespace(SOLVER=solver), layer)

    first = build()
    assert stepped(first, layer.weight) == [[-0.5]]  # momentum 1
    second = build(LR=0.25, MOMENTUM=0.75)
    restore_optimizer(second, first.state_dict())
    assert stepped(second, layer.weight) == [[-0.9375]]  # momentum 0.75 * 1 + 1, times 0.25
    second.param_groups[0]["momentum"] = 0.125  # as an optimizer does that counts its steps in its groups
    third = build(LR=1.0, MOMENTUM=0.75)
    restore_optimizer(third, second.state_dict())
    assert (third.param_groups[0]["momentum"], third.param_groups[0]["initial_lr"]) == (0.125, 1.0)


def test_a_parameter_may_have_its_first_gradient_after_the_first_step():
    model = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(2)])
    optimizer = SGD(model, lr=0.5, momentum=0.5, weight_decay=0.0)
    for layer in model:
        nn.init.zeros_(layer.weight)
    for layer in model:
        optimizer.zero_grad()
        model[0].weight.grad = torch.ones(1, 1)
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
    assert [layer.weight.item() for layer in model] == [-0.5 - 0.75, -0.5]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state["state"][0].update(momentum_buffer=None), "momentum_buffer does not have its parameter's"),
        (lambda state: state["state"][0].update(momentum_buffer=torch.zeros(2)), "momentum_buffer does not have"),
        (lambda state: state["state"].update({0: 0.5}), "state of a parameter is a float"),
        (lambda state: state["param_groups"][0].update(nesterov=[]), "the optimizer's nesterov is a list"),
    ],
)
def test_a_damaged_state_is_refused_before_a_step(damage, message):
    layer = nn.Linear(1, 1, bias=False)
    solver = SimpleNamespace(OPTIMIZER={"NAME": "SGD"}, BATCH_SIZE=1, REFERENCE_BATCH_SIZE=0)
    optimizer = build_optimizer(SimpleNamespace(SOLVER=solver), layer)
    stepped(optimizer, layer.weight)
    state = optimizer.state_dict()
    damage(state)
    with pytest.raises(ValueError, match=message):
        restore_optimizer(build_optimizer(SimpleNamespace(SOLVER=solver), layer), state)


def test_a_restored_optimizer_of_an_older_checkpoint_takes_the_settings_of_the_config():
    layer = nn.Linear(1, 1, bias=False)
    old = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.5)
    old.param_groups[0]["initial_lr"] = 1.0
    optimizer = build_optimizer(config(batch_size=2, reference_batch_size=0), layer)
    restore_optimizer(optimizer, old.state_dict())
    assert optimizer.param_groups[0]["initial_lr"] == 0.5


def group_table(model, groups):
    found = parameter_groups(model, lr=0.5, weight_decay=0.25, **FACTORS, groups=groups)
    names = names_by_group(model, found)
    return {group["name"]: (group["lr"], group["weight_decay"], names[group["name"]]) for group in found}


def test_a_group_multiplies_the_rates_of_the_parameters_in_its_prefix_and_the_longest_prefix_counts():
    model = nn.ModuleDict({"low": nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)]), "lower": nn.Linear(2, 2)})
    assert group_table(model, [["low", 0.5, 2.0], ["low.1", 0.25, 0.0]]) == {
        "weights": (0.5, 0.25, {"lower.weight"}),
        "biases": (0.5 * 2, 0.25 * 0.5, {"lower.bias"}),
        "weights of low": (0.25, 0.5, {"low.0.weight"}),
        "biases of low": (0.5 * 2 * 0.5, 0.25 * 0.5 * 2, {"low.0.bias"}),
        "norms of low.1": (0.125, 0.0, {"low.1.weight", "low.1.bias"}),
    }


@pytest.mark.parametrize("build", [SGD, AdamW])
def test_both_optimizers_have_groups(build):
    names = [group["name"] for group in build(everything(), groups=[["conv", 0.1, 1.0]]).param_groups]
    assert names == ["weights", "biases", "norms", "weights of conv", "biases of conv"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["con", 1, 1]], "groups: the trained part of the model has no weights in 'con'; did you mean conv?"),
        ([["frozen", 1, 1]], "groups: the trained part of the model has no weights in 'frozen'"),
        ([["conv", 1]], r"groups: expected \[prefix, learning-rate factor, decay factor\], got \['conv', 1.0\]"),
        ([["conv", "a", 1]], r"groups: expected \[prefix, .*'a'"),
        ([["conv", -1, 1]], r"groups: expected \[prefix, .*-1.0"),
        ([["conv", 1, 1], ["conv", 2, 1]], "groups: expected different prefixes, got conv, conv"),
    ],
)
def test_groups_that_mean_nothing_are_refused(groups, message):
    with pytest.raises(UserError, match=message):
        OPTIMIZERS.build({"NAME": "SGD", "GROUPS": groups}, everything())


def test_a_third_of_the_loss_and_three_times_the_rate_of_a_group_scale_only_the_gradient_of_the_rest():
    """The cascade's gradient in detectron2: whole in the heads, a third in the backbone."""

    def train(scale, groups, backbone_scale):
        torch.manual_seed(0)
        model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "heads": nn.Linear(3, 1)}).double()
        optimizer = SGD(model, lr=0.01, groups=groups)
        for _ in range(4):
            features = model["backbone"](torch.ones(2, 3).double())
            features = backbone_scale * features + (1 - backbone_scale) * features.detach()
            (scale * model["heads"](features).square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.detach() for parameter in model.parameters()]

    scaled = train(1 / 3, [["heads", 3, 1 / 3]], 1.0)
    for parameter, expected in zip(scaled, train(1.0, [], 1 / 3), strict=True):
        torch.testing.assert_close(parameter, expected)
