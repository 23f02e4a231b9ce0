"""Every part works with every other: a covering array of all pairs trains for a step and detects."""

import itertools
import random

import pytest
import torch
from torch import nn

import swap_matrix
from detlite.cli import run_command
from detlite.config import load_config
from detlite.modeling.rpn.head import RPNHead
from detlite.modeling.sampler import BalancedSampler
from detlite.registry import RPN_HEADS, SAMPLERS
from swap_matrix import Combination, attempt

# Parts that do not fit together, and the message.
MISFITS = [
    (
        {"MODEL.ROI_HEADS.POOLER": ["RoIPool", "RoIAlign"], "MODEL.BACKBONE": ["FPN"]},
        "MODEL.ROI_HEADS.POOLER: {0}: {0} pools from one feature level, got ",
    ),
    (
        {"MODEL.ROI_HEADS.BOX_HEAD": ["Res5BoxHead"], "MODEL.BACKBONE": ["VGG", "FPN", "TimmBackbone"]},
        "MODEL.ROI_HEADS.BOX_HEAD: {0}: resnet18's last stage takes 256 channels, the backbone gives ",
    ),
]


def fits(choices):
    return not any(all(choices.get(path) in names for path, names in misfit.items()) for misfit, _ in MISFITS)


def draw(chance, wanted=()):
    """Draw a combination with the wanted choices, {path: choice}; all others are random."""
    wanted = dict(wanted)
    return Combination.draw(lambda path, names, chosen: wanted.get(path) or chance.choice(names))


def pairs_of(choices):
    return dict.fromkeys(itertools.combinations(sorted(choices.items()), 2))  # no set: its order differs by process


def all_pairs(draws):
    """Return each pair of choices that fit, with the choices of one combination that has it."""
    chance = random.Random(0)
    found = {}
    for _ in range(draws):
        choices = draw(chance).choices
        if fits(choices):
            for pair in pairs_of(choices):
                found.setdefault(pair, choices)
    return found


def row_with(pair, example, missing, chance):
    """Return a combination with the pair and, choosing greedily, many missing pairs."""
    fixed = {path: choice for path, choice in example.items() if any(f"{p}.".startswith(f"{path}.") for p, _ in pair)}

    def choose(path, names, chosen):
        chosen = chosen | fixed

        def gain(name):
            made = sum(tuple(sorted([(path, name), item])) in missing for item in chosen.items())
            return fits(chosen | {path: name}), made, chance.random()

        return fixed.get(path) or max(names, key=gain)

    return Combination.draw(choose)


def covering_array(draws=3000):
    """Return combinations that together have every pair of choices that fit."""
    load_config()  # imports the built-in parts
    chance = random.Random(0)
    examples = all_pairs(draws)
    missing, rows = set(examples), []
    for pair, example in examples.items():
        if pair in missing:
            candidates = [row_with(pair, example, missing, chance) for _ in range(4)]
            rows.append(max(candidates, key=lambda row: len(pairs_of(row.choices).keys() & missing)))
            missing -= pairs_of(rows[-1].choices).keys()
    assert not missing
    return rows


def test_every_pair_of_parts_that_fit_trains_every_parameter_and_detects():
    rows = covering_array()
    outcomes = [(attempt(row), str(row)) for row in rows]
    assert [outcome for outcome in outcomes if outcome[0].status != "ran"] == []
    ran = set().union(*(row.choices.items() for row in rows))
    assert {"Res5BoxHead", "CascadeRoIHeads", "FPN", "FocalLoss", "ATSSMatcher", "AdamW"} <= {name for _, name in ran}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(zip(misfit, pair, strict=True)), message.format(pair[0]))
        for misfit, message in MISFITS
        for pair in itertools.product(*misfit.values())
    ],
)
def test_what_does_not_fit_is_refused_as_it_is_built(choices, message):
    fitting = {"MODEL": "FasterRCNN", "MODEL.ROI_HEADS.POOLER": "MultiLevelPooler"}
    outcome = attempt(draw(random.Random(0), fitting | choices))
    assert outcome.status == "refused"
    assert outcome.reason.startswith(message)


class HeadWithAnIdleLayerForTest(RPNHead):
    """Has a parameter without gradient."""

    def __init__(self, *given):
        super().__init__(*given, conv_dim=8)
        self.idle = nn.Linear(1, 1)


class SamplerThatFailsForTest(BalancedSampler):
    """Fails without positive boxes."""

    def __call__(self, labels, generator=None):
        return (labels == 1).nonzero().flatten()[[0]], (labels == 0).nonzero().flatten()


class HeadOfNoNumbersForTest(RPNHead):
    """Its logits are not finite."""

    def forward(self, features):
        logits, deltas = super().forward(features)
        return [level * torch.nan for level in logits], deltas


@pytest.mark.parametrize(
    ("registry", "part", "message"),
    [
        (RPN_HEADS, HeadWithAnIdleLayerForTest, "a gradient in rpn.head.idle.weight"),
        (SAMPLERS, SamplerThatFailsForTest, "IndexError"),
        (RPN_HEADS, HeadOfNoNumbersForTest, "loss_objectness: finite float32 ()"),
    ],
)
def test_the_command_finds_the_faults_of_a_part(registry, part, message, capsys):
    registry.register()(part)
    words = ["--count", "2", "--only", f"{registry.slot}={part.__name__}"]
    words += ["--only", "META_ARCHITECTURE=ProposalNetwork", "--only", "BACKBONE=VGG"]
    assert run_command(swap_matrix, words, "swap_matrix.py") == 1
    said = capsys.readouterr()
    assert message in said.out
    assert "2 combinations: 0 ran, 0 refused, 2 failed" in said.out
    assert said.err == "error: 2 of 2 combinations failed, see above\n"


def test_the_command_tells_what_ran_and_what_was_refused_and_why(capsys):
    words = ["--count", "3", "--seed", "1", "--only", "META_ARCHITECTURE=FasterRCNN", "--only", "BACKBONE=FPN"]
    assert run_command(swap_matrix, [*words, "--only", "ROI_POOLER=RoIPool"], "swap_matrix.py") == 0
    first = capsys.readouterr().out
    assert "MODEL.ROI_HEADS.POOLER: RoIPool: RoIPool pools from one feature level" in first
    assert "3 combinations: 0 ran, 3 refused, 0 failed" in first


def test_combinations_follow_from_the_seed_alone():
    assert draw(random.Random(3)) == draw(random.Random(3)) != draw(random.Random(4))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("MATCHR=x", "error: no slot of the matrix is called 'MATCHR'; did you mean MATCHER?"),
        ("MATCHER=MaxIouMatcher", "error: no MATCHER is called 'MaxIouMatcher'; did you mean MaxIoUMatcher?"),
        ("MATCHER", "error: --only MATCHER: expected SLOT=NAME, such as MATCHER=MyMatcher"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(word, message, capsys):
    assert run_command(swap_matrix, ["--only", word], "swap_matrix.py") == 1
    assert capsys.readouterr().err.startswith(message)
