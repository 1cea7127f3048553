"""The learning rate is a function of tokens alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_bootstrap.training.schedule import Schedule


@given(
    steps=st.integers(1, 500), warmup=st.floats(0, 0.5), decay=st.floats(0, 0.5), batch=st.sampled_from([1, 128, 512])
)
def test_the_rate_stays_above_zero_and_below_the_peak(steps, warmup, decay, batch):
    schedule = Schedule(
        tokens=steps * batch, warmup_tokens=int(steps * warmup) * batch, decay_tokens=int(steps * decay) * batch
    )
    factors = [schedule.factor(step * batch, batch) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1) or schedule.decay_tokens == schedule.tokens


def test_the_rate_rises_holds_and_falls_linearly():
    schedule = Schedule(tokens=10, warmup_tokens=2, decay_tokens=4)
    assert [schedule.factor(t, 1) for t in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_phases_follow_the_rate_and_a_trunk_never_ends():
    schedule = Schedule(tokens=10, warmup_tokens=2, decay_tokens=4)
    phases = [schedule.phase(t) for t in range(11)]
    assert phases == ["warmup"] * 2 + ["stable"] * 5 + ["decay"] * 3 + ["end"]
    assert Schedule(tokens=10, warmup_tokens=2).phase(10) == "stable"
