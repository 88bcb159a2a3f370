"""Smoothing against examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tsm_edge.cards import Smoothing
from tsm_edge.errors import CardError
from tsm_edge.live.smoothing import Smoother


def one_hot(index: int, classes: int = 5, value: float = 10.0) -> np.ndarray:
    logits = np.zeros((1, classes), np.float32)
    logits[0, index] = value
    return logits


def shown(settings: Smoothing, predictions: list[int], classes: int = 5) -> list[int]:
    smoother = Smoother(settings, classes)
    return [smoother.update(one_hot(index, classes)).class_index for index in predictions]


def test_without_rules_it_is_arg_max_and_softmax() -> None:
    result = Smoother(Smoothing(), 3).update(np.array([[1.0, 3.0, 2.0]], np.float32))
    assert result.class_index == 1
    assert result.probability == pytest.approx(math.exp(3) / (math.exp(1) + math.exp(2) + math.exp(3)))


def test_window_adds_up_logits() -> None:
    # Sums of three: [4 0] [4 3] [4 6] [0 9]: class 1 wins from the third on, though the second frame says 1, too.
    smoother = Smoother(Smoothing(window=3), 2)
    frames = [[4.0, 0.0], [0.0, 3.0], [0.0, 3.0], [0.0, 3.0]]
    results = [smoother.update(np.array(frame, np.float32)) for frame in frames]
    assert [result.class_index for result in results] == [0, 0, 1, 1]
    # The probability is that of the mean, [4/3, 6/3] in the third: a sum would exaggerate it.
    assert results[2].probability == pytest.approx(1 / (1 + math.exp(4 / 3 - 2)), rel=1e-6)


def test_agree_needs_that_many_in_a_row() -> None:
    assert shown(Smoothing(agree=2), [0, 1, 0, 1, 1, 2, 1, 2, 2]) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    # 1 then 2 do not agree with each other.
    assert shown(Smoothing(agree=3), [0, 1, 2, 1, 1, 1]) == [0, 0, 0, 0, 0, 1]


def test_masked_classes_leave_the_label_and_count_as_it() -> None:
    assert shown(Smoothing(masked=(3,)), [0, 3, 1, 3]) == [0, 0, 1, 1]
    # The masked frame stands for the shown 0, so the two 1s around it are not in a row.
    assert shown(Smoothing(masked=(3,), agree=2), [0, 1, 3, 1, 1]) == [0, 0, 0, 0, 1]


def test_a_masked_class_at_the_start_gives_the_best_other_class() -> None:
    logits = np.array([0.0, 1.0, 2.0, 9.0], np.float32)
    assert Smoother(Smoothing(masked=(3,)), 4).update(logits).class_index == 2


def test_shown_as_replaces_a_class_and_adds_its_probability() -> None:
    smoother = Smoother(Smoothing(shown_as=((0, 2),)), 3)
    result = smoother.update(np.log(np.array([0.5, 0.2, 0.3], np.float32)))
    assert result.class_index == 2
    assert result.probability == pytest.approx(0.8)


def test_the_jester_demo_rules_together() -> None:
    # Class 0 is shown as 2, 3 is masked, two in a row must agree, no window so that it can be worked by hand.
    rules = Smoothing(agree=2, masked=(3,), shown_as=((0, 2),))
    #           0 shown as 2 | 4 once | 4 twice | masked | 0 -> 2 once | 2: agrees with 0 | 1 once | 2
    predictions = [0, 4, 4, 3, 0, 2, 1, 2]
    assert shown(rules, predictions) == [2, 2, 4, 4, 4, 2, 2, 2]


def test_reset_forgets_window_label_and_votes() -> None:
    smoother = Smoother(Smoothing(window=12, agree=2), 3)
    for _ in range(12):
        smoother.update(one_hot(0, 3))
    smoother.update(one_hot(1, 3))
    smoother.reset()
    assert smoother.update(one_hot(1, 3)).class_index == 1


def test_logits_may_live_in_a_buffer_that_changes() -> None:
    smoother = Smoother(Smoothing(window=2), 2)
    buffer = np.array([[0.0, 9.0]], np.float32)
    smoother.update(buffer)
    buffer[:] = [[1.0, 0.0]]
    assert smoother.update(buffer).class_index == 1


@pytest.mark.parametrize(
    "settings", [Smoothing(masked=(0, 1, 2)), Smoothing(masked=(7,)), Smoothing(shown_as=((0, 3),))]
)
def test_impossible_rules_are_refused(settings: Smoothing) -> None:
    with pytest.raises(CardError, match="smoothing"):
        Smoother(settings, 3)


@pytest.mark.parametrize("rules", [Smoothing(), Smoothing(window=3, agree=2, masked=(1,), shown_as=((0, 2),))])
def test_a_model_that_ends_in_a_softmax_is_shown_as_the_same_model_without(rules: Smoothing) -> None:
    plain, itself = Smoother(rules, 5), Smoother(rules, 5, "softmax")
    for logits in np.random.default_rng(2).normal(0, 4, (40, 1, 5)).astype(np.float32):
        chances = np.exp(logits) / np.exp(logits).sum()
        found, expected = itself.update(chances), plain.update(logits)
        assert found.class_index == expected.class_index
        assert found.probability == pytest.approx(expected.probability, rel=1e-4)


def test_probabilities_are_shown_as_the_model_gives_them() -> None:
    chances = np.array([[0.28, 0.06, 0.66, 0.0, 0.0]], np.float32)
    assert Smoother(Smoothing(), 5, "softmax").update(chances).probability == pytest.approx(0.66, rel=1e-5)
    # Of a sigmoid each class stands for itself.
    several = np.array([[0.9, 0.8, 1.0, 0.0]], np.float32)
    shown = Smoother(Smoothing(masked=(2,)), 4, "sigmoid").update(several)
    assert (shown.class_index, round(shown.probability, 5)) == (0, 0.9)
