"""A spike is far above the recent losses; noise, a falling loss and the first steps are not."""

import math
import random

from pretrain.watching.spikes import SPIKE_Z, LossHistory


def test_noise_on_a_falling_loss_never_is_a_spike():
    noise = random.Random(0)
    history = LossHistory()
    scores = [history.z_score(3 + 8 * math.exp(-step / 100) + noise.gauss(0, 0.03)) for step in range(5000)]
    assert max(scores) < SPIKE_Z


def test_a_jump_is_a_spike_once_enough_is_known():
    noise = random.Random(0)
    history = LossHistory()
    assert history.z_score(100.0) == 0
    history = LossHistory(3 + noise.gauss(0, 0.03) for _ in range(200))
    assert history.z_score(3.5) > SPIKE_Z


def test_a_few_values_measure_nothing():
    history = LossHistory([2.0, 2.1] * 15)
    assert history.z_score(9.0) == 0
    assert history.z_score(9.0) == 0
    assert history.z_score(99.0) > SPIKE_Z


def test_the_score_is_the_distance_in_standard_deviations():
    history = LossHistory([1.0, 3.0] * 64)
    assert history.z_score(7.0) == 5.0


def test_a_loss_that_is_not_finite_is_not_remembered():
    history = LossHistory([1.0, 3.0] * 64)
    assert math.isnan(history.z_score(math.nan))
    assert math.isnan(history.z_score(math.inf))
    assert history.z_score(7.0) == 5.0


def test_equal_losses_have_no_spread_to_measure_by():
    assert LossHistory([2.0] * 128).z_score(5.0) == 0.0
