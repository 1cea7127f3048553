"""What a run's own points say of its end, while it runs: a forecast with an interval, or nothing.

It fits with the engine of the laws, to one run at a constant rate. Decisions between runs are the business of laws,
which need several bases.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import LawError, TrainingError
from ..laws.fitting import Fit, fit_form
from ..laws.forms import find_form
from .schedule import Schedule

if TYPE_CHECKING:
    from transformers.training_args import TrainingArguments

__all__ = ["Forecast", "Forecaster", "forecast_end", "has_stable_phase"]

_FloatArray = npt.NDArray[np.float64]

_FEWEST_POINTS = 6
_LEAST_SPAN = 4.0
_FURTHEST = 100.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the points of one run say.

    Attributes:
        tokens: trained tokens at the end of the run.
        loss, low, high: predicted there at the rate as it is, and its 95% interval; a decay of the rate takes the loss
            below that.
        worth_until: trained tokens beyond which doubling them gains less than was asked; None where that lies beyond
            100 times what was seen.
        n_points: points fitted.
    """

    tokens: int
    loss: float
    low: float
    high: float
    worth_until: int | None
    n_points: int


def forecast_end(
    tokens: Sequence[float], losses: Sequence[float], *, end: int, from_scratch: bool, worth: float = 0.01
) -> Forecast | None:
    """Fit L = A (D2 + c)^-alpha + E to one run's points and read it at the end.

    Points from before a tenth of the tokens seen are left out: warm-up is in them. The interval is that of least
    squares with the variance of residuals widened for their correlation, and a new measurement's error in it.

    Args:
        tokens: trained tokens, rising.
        losses: nats per token, at a constant rate.
        end: trained tokens to predict at.
        from_scratch: then c is 0; else it is searched, for a base is worth an unknown number of tokens.
        worth: nats that a doubling of the tokens must gain.

    Returns:
        None where six points over a factor of four are not there, or the fit has no finite interval.
    """
    if worth <= 0:
        raise TrainingError(f"worth is {worth}; every run is worth going on with for that. Give nats, such as 0.01.")
    d, loss = np.asarray(tokens, dtype=float), np.asarray(losses, dtype=float)
    kept = d >= 0.1 * d.max(initial=0.0)
    d, loss = d[kept & (d > 0)], loss[kept & (d > 0)]
    if len(d) < _FEWEST_POINTS or d.max() < _LEAST_SPAN * d.min():
        return None
    offsets = [0.0] if from_scratch else [0.0, *np.geomspace(d.min() / 4, 16 * d.max(), 7)]
    try:
        fits = [(c, _fit(c, d, loss)) for c in offsets]
    except LawError:
        return None
    c, fit = min(fits, key=lambda pair: pair[1].value)
    spread = _standard_error(fit, c, d, float(end), len(offsets) > 1)
    expected = _value(fit, c, float(end))
    if spread is None or not math.isfinite(expected):
        return None
    return Forecast(
        tokens=end,
        loss=expected,
        low=expected * math.exp(-spread),
        high=expected * math.exp(spread),
        worth_until=_worth_until(fit, c, worth, d.max()),
        n_points=len(d),
    )


def _fit(c: float, d: _FloatArray, loss: _FloatArray) -> Fit:
    with np.errstate(divide="ignore"):
        logs = {"base_tokens": np.log(np.full_like(d, c)), "tokens": np.log(d)}
    return fit_form(find_form("total_tokens"), logs, loss, objective="lsq")


def _value(fit: Fit, c: float, tokens: float) -> float:
    log_a, alpha, log_e = fit.theta
    return float(math.exp(log_a - alpha * math.log(tokens + c)) + math.exp(log_e))


def _standard_error(fit: Fit, c: float, d: _FloatArray, end: float, searched: bool) -> float | None:
    """Half of the 95% interval of ln(loss) at the end."""
    from scipy.stats import t as student

    free = len(d) - len(fit.theta) - searched
    if free < 1:
        return None
    residuals = fit.residuals
    variance = float(residuals @ residuals) / free
    if not variance > 0:
        return None
    together = float(residuals[1:] @ residuals[:-1]) / float(residuals @ residuals)
    widened = variance * (1 + max(together, 0.0)) / (1 - min(max(together, 0.0), 0.9))
    slope = _slope(fit, c, end)
    columns = fit.slopes
    if searched:
        columns = np.column_stack([columns, [_slope_of_offset(fit, c, x) for x in d]])
        slope = np.append(slope, _slope_of_offset(fit, c, end))
    scale = np.maximum(np.abs(columns).max(axis=0), 1e-12)
    spread = np.linalg.pinv((columns / scale).T @ (columns / scale), rcond=1e-12, hermitian=True)
    error = float(slope / scale @ spread @ (slope / scale))
    factor = float(student.ppf(0.975, free))
    return factor * math.sqrt(widened * (error + 1.0))


def _slope(fit: Fit, c: float, tokens: float) -> _FloatArray:
    """Derivative of ln(loss) in ln A, alpha and ln E."""
    log_a, alpha, log_e = fit.theta
    log_total = math.log(tokens + c)
    term, floor = math.exp(log_a - alpha * log_total), math.exp(log_e)
    return np.array([term, -term * log_total, floor]) / (term + floor)


def _slope_of_offset(fit: Fit, c: float, tokens: float) -> float:
    """Derivative of ln(loss) in the offset c, per token."""
    log_a, alpha, log_e = fit.theta
    term = math.exp(log_a - alpha * math.log(tokens + c))
    return float(-alpha * term / (tokens + c) / (term + math.exp(log_e)))


def _worth_until(fit: Fit, c: float, worth: float, seen: float) -> int | None:
    """The last of 400 places at which doubling the tokens still gains `worth` nats; they are 2% apart."""

    def gain(tokens: float) -> float:
        return _value(fit, c, tokens) - _value(fit, c, 2 * tokens)

    places = np.geomspace(seen / _FURTHEST, seen * _FURTHEST, 400)
    enough = np.flatnonzero([gain(place) >= worth for place in places])
    if not len(enough):
        return round(float(places[0]))
    last = int(enough[-1])
    return None if last == len(places) - 1 else round(float(places[last]))


def has_stable_phase(args: "TrainingArguments", schedule: Schedule | None) -> bool:
    """Whether the rate of a run stays at its peak for a while; only there a forecast can be fitted."""
    if schedule is not None:
        return schedule.warmup_tokens + schedule.decay_tokens < schedule.tokens
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    return kind.startswith("constant") or kind in ("warmup_stable_decay", "reduce_lr_on_plateau", "greedy")


class Forecaster:
    """Makes a forecast after each point of a run, if that costs at most a share of the time the run took.

    Args:
        end: trained tokens of the run.
        from_scratch, worth: as `forecast_end` takes them.
        share: of the run's time that may go into forecasts.
    """

    def __init__(self, end: int, *, from_scratch: bool, worth: float = 0.01, share: float = 0.01) -> None:
        self._end, self._from_scratch, self._worth, self._share = end, from_scratch, worth, share
        self._points: dict[int, float] = {}
        self._last = 1.0  # of the first, which loads what it needs
        self.seconds = 0.0

    def add(self, tokens: int, loss: float) -> None:
        """Take a point measured at a constant rate."""
        self._points[tokens] = loss

    def look(self, elapsed: float) -> Forecast | None:
        """The forecast of now; None with too few points, or if it would cost too much of `elapsed` seconds."""
        if self.seconds + self._last > self._share * elapsed:
            return None
        began = time.perf_counter()
        order = sorted(self._points)
        found = forecast_end(
            order, [self._points[t] for t in order], end=self._end, from_scratch=self._from_scratch, worth=self._worth
        )
        self._last = time.perf_counter() - began
        self.seconds += self._last
        return found
