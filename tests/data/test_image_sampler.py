"""Image samplers: the images of an epoch, their number and order."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from detlite.config import load_config
from detlite.data import ShapesDataset, build_image_sampler, build_transforms, concatenate, training_loader
from detlite.data.image_sampler import DatasetWeightSampler, ImageLabels, RepeatFactorSampler, UniformImageSampler
from detlite.data.loader import TrainingBatchSampler
from detlite.errors import UserError
from detlite.seeding import derive_seed


def arrays(*images):
    return [np.array(labels, np.int64) for labels in images]


def generator(seed=0):
    return np.random.default_rng(seed)


def times(sampler, epochs=1):
    """How often each image was drawn."""
    order = np.concatenate([sampler(generator(seed)) for seed in range(epochs)])
    return np.bincount(order, minlength=len(order) // epochs)


def test_the_default_order_is_a_permutation_of_seed_and_epoch():
    cfg = load_config()
    dataset = ShapesDataset(num_images=9)
    order = build_image_sampler(cfg.DATASETS.IMAGE_SAMPLER, dataset)(generator(derive_seed(3, 4)))
    assert order.tolist() == generator(derive_seed(3, 4)).permutation(9).tolist()


def test_repeat_factors_are_the_papers():
    # Class 1 is in 8 of 10 images, class 2 in 2, class 3 in 1, and one image has no objects.
    labels = arrays(*[[1, 1]] * 6, [1, 2], [2], [], [1, 3, 3])
    threshold = 0.4
    expected = [1.0] * 6 + [math.sqrt(threshold / 0.2)] * 2 + [1.0, math.sqrt(threshold / 0.1)]
    sampler = RepeatFactorSampler(labels, np.zeros(10, int), threshold=threshold)
    assert sampler.weights.tolist() == pytest.approx(expected)


def test_images_are_drawn_in_proportion_to_their_factors_and_an_epoch_keeps_its_length():
    labels = arrays(*[[1]] * 45, *[[2]] * 4, [3])
    sampler = RepeatFactorSampler(labels, np.zeros(50, int), threshold=0.5)
    expected = sampler.weights / sampler.weights.sum() * 50
    for seed in range(20):
        once = np.bincount(sampler(generator(seed)), minlength=50)
        assert once.sum() == 50
        assert (once >= np.floor(expected)).all() and (once <= np.ceil(expected)).all()
    assert times(sampler, 4000) / 4000 == pytest.approx(expected, rel=0.06)


def test_equal_factors_draw_each_image_once():
    sampler = RepeatFactorSampler(arrays(*[[1]] * 37), np.zeros(37, int), threshold=0.5)
    for seed in range(50):
        assert sorted(sampler(generator(seed))) == list(range(37))


def test_data_sets_are_drawn_in_the_proportion_of_their_weights():
    numbers = np.array([0] * 30 + [1] * 10)
    sampler = DatasetWeightSampler(arrays(*[[]] * 40), numbers, weights=[1, 3])
    assert Counter(numbers[sampler(generator())].tolist()) == {0: 10, 1: 30}
    assert Counter(numbers[DatasetWeightSampler([], numbers)(generator())].tolist()) == {0: 20, 1: 20}
    assert set(numbers[DatasetWeightSampler([], numbers, weights=[0, 1])(generator())]) == {1}


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [-1, 1], [0, 0], [math.inf, 1]])
def test_weights_that_fit_no_data_sets_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        DatasetWeightSampler(arrays([], []), np.array([0, 1]), weights=weights)


def test_labels_are_those_of_the_objects_of_joined_data_sets_and_read_only_if_needed():
    first, second = ShapesDataset(num_images=3, seed=1), ShapesDataset(num_images=2, seed=2)
    labels = ImageLabels([first, second])
    expected = [dataset[index][1]["labels"].tolist() for dataset in (first, second) for index in range(len(dataset))]
    assert [values.tolist() for values in labels] == expected
    unread = ImageLabels([first])
    UniformImageSampler(unread, None)
    assert "_labels" not in vars(unread)


def test_a_config_names_the_sampler_and_the_proportions_of_its_data_sets():
    node = load_config(opts=["DATASETS.IMAGE_SAMPLER", "{NAME: DatasetWeightSampler, WEIGHTS: [1, 0]}"]).DATASETS
    dataset = concatenate([ShapesDataset(num_images=4), ShapesDataset(num_images=4)])
    assert max(build_image_sampler(node.IMAGE_SAMPLER, dataset)(generator())) == 3
    with pytest.raises(UserError, match="IMAGE_SAMPLER: DatasetWeightSampler: weights: expected one per entry"):
        build_image_sampler(node.IMAGE_SAMPLER, ShapesDataset(num_images=4))


SIZES = np.array([[40, 30], [30, 40]] * 3)


def batches(count, **keys):
    sampler = RepeatFactorSampler(arrays([1], [1], [1], [1], [1], [2]), np.zeros(6, int), threshold=1.0)
    return list(itertools.islice(TrainingBatchSampler(SIZES, sampler, 4, 7, True, **keys), count))


def test_a_repeated_image_is_another_draw_and_every_epoch_has_as_many_draws_as_images():
    draws = list(itertools.chain.from_iterable(batches(30)))
    assert len(set(draws)) == len(draws)
    assert any(len(draw) == 3 and draw[2] == 1 for draw in draws)
    complete = Counter(draw[0] for draw in draws if draw[0] < 10)
    assert set(complete.values()) == {6}


def test_resumed_and_shared_batches_of_repeated_images_are_the_same():
    assert batches(9, first_batch=11) == batches(20)[11:]
    shares = [batches(10, share=(number, 2)) for number in range(2)]
    for batch, first, second in zip(batches(10), *shares, strict=True):
        assert batch[::2] == first and batch[1::2] == second


def test_repeats_of_an_image_are_augmented_differently():
    class First:
        def __call__(self, generator):
            return np.zeros(3, np.int64)

    loader = training_loader(
        ShapesDataset(num_images=3),
        build_transforms([{"NAME": "ResizeShortSide"}]),
        batch_size=3,
        seed=0,
        num_workers=0,
        group_by_aspect_ratio=False,
        image_sampler=First(),
    )
    _, targets = next(iter(loader))
    assert [target["index"] for target in targets] == [0, 0, 0]
    assert [target["seed"] for target in targets] == [
        derive_seed(0, 0, 0),
        derive_seed(0, 0, 0, 1),
        derive_seed(0, 0, 0, 2),
    ]


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 6, 1, 1, 1], [0.0] * 6, [-1] * 6])
def test_an_epoch_that_breaks_the_contract_is_one_message(order):
    class Broken:
        def __call__(self, generator):
            return np.array(order)

    with pytest.raises(UserError, match="IMAGE_SAMPLER: Broken must return 6 indices from 0 to 5, got"):
        next(iter(TrainingBatchSampler(SIZES, Broken(), 2, 0, False)))
