import pytest
import torch

from detlite.errors import UserError
from detlite.modeling.sampler import BalancedSampler
from detlite.registry import SAMPLERS


def labels_of(positive, negative, ignored):
    labels = torch.tensor([1] * positive + [0] * negative + [-1] * ignored)
    return labels[torch.randperm(len(labels))]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((500, 500, 9), (128, 128)),
        ((18, 7690, 1232), (18, 238)),  # the notebook's
        ((0, 500, 9), (0, 256)),
        ((500, 20, 9), (128, 20)),
        ((1, 0, 0), (1, 0)),
        ((0, 1, 0), (0, 1)),
        ((0, 0, 7), (0, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_at_most_half_are_positive_and_negatives_fill_up(labels, expected):
    labels = labels_of(*labels)
    positive, negative = BalancedSampler(num_samples=256, positive_fraction=0.5)(labels, None)
    assert (len(positive), len(negative)) == expected
    assert (labels[positive] == 1).all() and (labels[negative] == 0).all()
    assert len(set(positive.tolist())) == len(positive) and len(set(negative.tolist())) == len(negative)
    assert positive.dtype == negative.dtype == torch.int64


def test_a_quarter_of_an_odd_number_is_rounded_down():
    positive, negative = BalancedSampler(num_samples=7, positive_fraction=0.25)(labels_of(50, 50, 0), None)
    assert (len(positive), len(negative)) == (1, 6)


def test_the_generator_alone_decides():
    labels = labels_of(500, 500, 500)
    first = BalancedSampler()(labels, torch.Generator().manual_seed(3))
    torch.rand(7)
    again = BalancedSampler()(labels, torch.Generator().manual_seed(3))
    other = BalancedSampler()(labels, torch.Generator().manual_seed(4))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_every_box_is_sampled_equally_often():
    generator = torch.Generator().manual_seed(0)
    sampler, counts = BalancedSampler(num_samples=4, positive_fraction=0.5), torch.zeros(10)
    labels = torch.tensor([1] * 5 + [0] * 5)
    for _ in range(2000):
        counts[torch.cat(sampler(labels, generator))] += 1
    assert (counts / 2000 - 2 / 5).abs().max() < 0.05  # 2 of 5; four standard deviations are 0.044


@pytest.mark.parametrize("keys", [{"NUM_SAMPLES": 0}, {"POSITIVE_FRACTION": 1.5}, {"POSITIVE_FRACTION": -0.5}])
def test_impossible_numbers_are_refused(keys):
    with pytest.raises(UserError, match="need num_samples >= 1"):
        SAMPLERS.build({"NAME": "BalancedSampler", **keys})
