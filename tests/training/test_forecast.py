"""A forecast covers the truth about as often as it says, is silent when it should be, and costs next to nothing."""

import numpy as np
import pytest

from hf_bootstrap.errors import TrainingError
from hf_bootstrap.training.forecast import Forecaster, forecast_end

MARKS = [1e6 * 2 ** (i / 2) for i in range(8)]


def loss_at(tokens, offset=0.0):
    return 1.7 + 20 * (np.asarray(tokens) + offset) ** -0.2


def studies(count, offset):
    """Points of runs whose noise of 0.3% hangs together from point to point."""
    chance = np.random.default_rng(0)
    for _ in range(count):
        noise = 0.003 * chance.standard_normal(len(MARKS))
        for i in range(1, len(noise)):
            noise[i] += 0.5 * noise[i - 1]
        yield loss_at(MARKS, offset) * np.exp(noise)


@pytest.mark.parametrize(("offset", "count"), [(0.0, 30), pytest.param(5e6, 60, marks=pytest.mark.slow)])
def test_the_interval_holds_the_truth_four_times_further(offset, count):
    end = int(4 * MARKS[-1])
    held = [
        f.low < loss_at(end, offset) < f.high
        for losses in studies(count, offset)
        if (f := forecast_end(MARKS, losses, end=end, from_scratch=not offset))
    ]
    assert len(held) == count
    assert np.mean(held) >= 0.85


def test_without_noise_the_end_and_what_is_worth_while_are_those_of_the_law():
    losses = loss_at(MARKS) * (1 + 1e-7 * np.cos(np.arange(len(MARKS))))
    found = forecast_end(MARKS, losses, end=10**8, from_scratch=True, worth=0.05)
    assert found.loss == pytest.approx(loss_at(1e8), rel=1e-4)
    exact = (20 * (1 - 2**-0.2) / 0.05) ** (1 / 0.2)
    assert found.worth_until == pytest.approx(exact, rel=0.05)


def test_too_few_points_or_too_short_a_span_give_no_forecast():
    assert forecast_end(MARKS[:5], loss_at(MARKS[:5]), end=10**8, from_scratch=True) is None
    near = np.linspace(1e6, 3e6, 12)
    assert forecast_end(near, loss_at(near), end=10**8, from_scratch=True) is None
    assert forecast_end([], [], end=10**8, from_scratch=True) is None


def test_a_worth_of_nothing_is_refused():
    with pytest.raises(TrainingError, match="worth"):
        forecast_end(MARKS, loss_at(MARKS), end=10**8, from_scratch=True, worth=0)


def test_forecasts_never_take_more_than_their_share_of_the_time():
    forecaster = Forecaster(10**8, from_scratch=True)
    made = 0
    for elapsed, tokens in zip(range(50, 2000, 100), np.geomspace(1e5, 1e8, 20), strict=True):
        forecaster.add(int(tokens), float(loss_at(tokens)) * (1 + 1e-4 * (int(tokens) % 7)))
        before = forecaster.seconds
        made += forecaster.look(elapsed) is not None
        assert forecaster.seconds - before <= 0 or before < 0.01 * elapsed
    assert made > 0
    assert Forecaster(10**8, from_scratch=True).look(elapsed=1.0) is None
