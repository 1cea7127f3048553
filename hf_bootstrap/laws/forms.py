"""The functional forms a law can take, with good places to start a fit.

To fit a form of your own, pass an object: `ScalingLaw(form=MyForm())`; to save it by name as well, add it
to `FORMS`. What a form must state is in `terms`; rows from scratch are completed in `scratch`.

Tokens and parameters are raw counts, losses nats per token, logs natural. D1 = base_tokens (first
stage), D2 = tokens (second stage, or the only one), N = n_params.
"""

from collections.abc import Sequence
from typing import final

import numpy as np

from ..errors import LawError, did_you_mean
from .terms import FloatArray, Form, LogLinear, Logs, Term

__all__ = [
    "FORMS",
    "Additive",
    "Bootstrap",
    "Chinchilla",
    "EffectiveTransfer",
    "Multiplicative",
    "TotalTokens",
    "find_form",
]

# Floors to start from, as fractions of the smallest loss. The last ones lie close together because a
# floor near the data bends the curve most.
_FLOORS = (1e-6, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.92, 0.96, 0.98, 0.995)
_FEW_FLOORS = (1e-6, 0.3, 0.6, 0.8, 0.95)


def _matrix(rows: int, *columns: FloatArray | float) -> FloatArray:
    matrix = np.empty((rows, len(columns)))
    for i, column in enumerate(columns):
        matrix[:, i] = column
    return matrix


def _solve_power_term(design: FloatArray, loss: FloatArray, floors: Sequence[float]) -> FloatArray:
    """For each floor, the least-squares power law ln(L - E) = design @ x: (2 * floors, parameters + 1).

    Twice: with equal weights, and with those that make an error of ln(L - E) count as one of ln L.
    """
    found = []
    for fraction in floors:
        floor = fraction * loss.min()
        reducible = loss - floor
        for weight in (np.ones_like(loss), reducible / loss):
            solution = np.linalg.lstsq(design * weight[:, None], np.log(reducible) * weight, rcond=None)[0]
            found.append([*solution, np.log(floor)])
    return np.array(found)


def _solve_two_terms(first: FloatArray, second: FloatArray, loss: FloatArray) -> FloatArray:
    """Starts (ln A, a, ln B, b, ln E) of L = A exp(-a first) + B exp(-b second) + E.

    A, B by least squares of the relative error for each pair of exponents and each floor, kept positive.
    """
    found = []
    middle = np.array([first.mean(), second.mean()])
    for a in (0.1, 0.2, 0.35, 0.55, 0.8):
        for b in (0.1, 0.2, 0.35, 0.55, 0.8):
            shapes = np.stack([np.exp(-a * (first - middle[0])), np.exp(-b * (second - middle[1]))], axis=1)
            for fraction in _FEW_FLOORS:
                floor = fraction * loss.min()
                amounts = np.linalg.lstsq(shapes / loss[:, None], (loss - floor) / loss, rcond=None)[0]
                amounts = np.maximum(amounts, 0.01 * (loss.mean() - floor))
                found.append(
                    [np.log(amounts[0]) + a * middle[0], a, np.log(amounts[1]) + b * middle[1], b, np.log(floor)]
                )
    return np.array(found)


@final
class Bootstrap(LogLinear):
    """The founding two-stage law: the exponent of the second stage falls with the logarithm of the first.

    Diverges as D1 or D2 goes to 0, so rows from scratch need a branch of their own (`WithScratch`).
    """

    name = "bootstrap"
    formula = "L = A * D1^-alpha1 * D2^(-alpha2 + alpha3 ln D1) + E"
    source = "Liew & Kato 2025, arXiv:2510.06548"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha1", "alpha2", "alpha3", "E")
    positive = frozenset({"A", "E"})
    covers_scratch = False

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v + alpha3 u v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        return [_matrix(len(v), 1, -u, -v, u * v, 0), _matrix(len(v), 0, 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return _solve_power_term(self.design(logs)[0][:, :4], loss, _FLOORS)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """alpha1 - alpha3 ln D2 and alpha2 - alpha3 ln D1."""
        u, v, (a1, a2, a3) = logs["base_tokens"], logs["tokens"], theta.T[1:4, :, None]
        return {"base_tokens": a1 - a3 * v, "tokens": a2 - a3 * u}


@final
class Multiplicative(LogLinear):
    """The bootstrap law without interaction: what it becomes when nothing saturates (alpha3 = 0)."""

    name = "multiplicative"
    formula = "L = A * D1^-alpha1 * D2^-alpha2 + E"
    source = "a rival in Liew & Kato 2025, arXiv:2510.06548; cf. Zhang et al. 2024, arXiv:2402.17193"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha1", "alpha2", "E")
    positive = frozenset({"A", "E"})
    covers_scratch = False

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        return [_matrix(len(v), 1, -u, -v, 0), _matrix(len(v), 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return _solve_power_term(self.design(logs)[0][:, :3], loss, _FLOORS)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """alpha1 and alpha2, the same everywhere."""
        shape = (len(theta), len(logs["tokens"]))
        return {
            "base_tokens": np.broadcast_to(theta[:, 1:2], shape),
            "tokens": np.broadcast_to(theta[:, 2:3], shape),
        }


@final
class Additive(LogLinear):
    """Each stage pays off its own part of the loss."""

    name = "additive"
    formula = "L = A * D1^-alpha1 + B * D2^-alpha2 + E"
    source = "a rival in Liew & Kato 2025, arXiv:2510.06548"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha1", "B", "alpha2", "E")
    positive = frozenset({"A", "B", "E"})
    covers_scratch = False

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u, ln B - alpha2 v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        rows = len(v)
        return [_matrix(rows, 1, -u, 0, 0, 0), _matrix(rows, 0, 0, 1, -v, 0), _matrix(rows, 0, 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and floors, amounts by least squares."""
        return _solve_two_terms(logs["base_tokens"], logs["tokens"], loss)


@final
class TotalTokens(LogLinear):
    """No second stage at all: a token counts the same whenever it was seen.

    The first null of every claim of saturation: fitted with `Bootstrap`, points of this law give alpha3 > 0.
    """

    name = "total_tokens"
    formula = "L = A * (D1 + D2)^-alpha + E"
    source = "the one-stage law of Hestness et al. 2017, arXiv:1712.00409, at D1 + D2"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha", "E")
    positive = frozenset({"A", "E"})
    covers_scratch = True

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha ln(D1 + D2), and ln E."""
        total = np.logaddexp(logs["base_tokens"], logs["tokens"])
        return [_matrix(len(total), 1, -total, 0), _matrix(len(total), 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return _solve_power_term(self.design(logs)[0][:, :2], loss, _FLOORS)


@final
class EffectiveTransfer(Form):
    """First-stage tokens are worth k D1^b tokens of the second stage.

    At D1 = 0 it is the law from scratch; at k = b = 1 it is `TotalTokens`.
    """

    name = "effective_transfer"
    formula = "L = A * (D2 + k * D1^b)^-alpha + E"
    source = "after Hernandez et al. 2021, arXiv:2102.01293 (effective data transferred)"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha", "k", "b", "E")
    positive = frozenset({"A", "k", "E"})
    covers_scratch = True

    def terms(self, logs: Logs, theta: FloatArray) -> Sequence[Term]:
        """The logs of its terms: ln A - alpha ln(D2 + k D1^b), and ln E."""
        log_a, alpha, log_k, b, log_e = theta.T[:, :, None]
        v, has_base = logs["tokens"], np.isfinite(logs["base_tokens"])
        # A row from scratch transfers nothing, whatever b a fit is trying out: 0^b is 0 here, also for b <= 0.
        u = np.where(has_base, logs["base_tokens"], 0.0)
        moved = np.where(has_base, log_k + b * u, -np.inf)
        pool = np.logaddexp(v, moved)
        share = np.exp(moved - pool)
        zero, one = np.zeros_like(pool), np.ones_like(pool)
        slope = np.stack([one, -pool, -alpha * share, -alpha * share * u, zero], axis=-1)
        bend = -alpha * share * (1 - share)
        curvature = {(1, 2): -share, (1, 3): -share * u, (2, 2): bend, (2, 3): bend * u, (3, 3): bend * u * u}
        floor = np.zeros((1, len(v), 5))
        floor[..., 4] = 1
        return [Term(log_a - alpha * pool, slope, curvature), Term(np.broadcast_to(log_e, pool.shape), floor)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of k (by the share it moves) and b, then one regression per floor."""
        u, v = logs["base_tokens"], logs["tokens"]
        has_base = np.isfinite(u)
        middle = u[has_base].mean() if has_base.any() else 0.0
        found = []
        for b in (0.15, 0.4, 0.7, 1.0):
            for ratio in (0.03, 0.3, 1.0, 3.0, 30.0):
                log_k = np.log(ratio) + v.mean() - b * middle
                pool = np.logaddexp(v, np.where(has_base, log_k + b * np.where(has_base, u, 0), -np.inf))
                simple = _solve_power_term(_matrix(len(v), 1, -pool), loss, _FEW_FLOORS)
                found += [[log_a, alpha, log_k, b, log_e] for log_a, alpha, log_e in simple]
        return np.array(found)


@final
class Chinchilla(LogLinear):
    """The one-stage law of model size and tokens; published fits make it an outside check of the engine."""

    name = "chinchilla"
    formula = "L = A * N^-alpha + B * D^-beta + E"
    source = "Hoffmann et al. 2022, arXiv:2203.15556, approach 3"
    columns = ("tokens", "n_params")
    parameters = ("A", "B", "E", "alpha", "beta")
    positive = frozenset({"A", "B", "E"})
    covers_scratch = True

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha ln N, ln B - beta ln D, and ln E."""
        d, n = logs["tokens"], logs["n_params"]
        return [
            _matrix(len(d), 1, 0, 0, -n, 0),
            _matrix(len(d), 0, 1, 0, 0, -d),
            _matrix(len(d), 0, 0, 1, 0, 0),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and floors, amounts by least squares."""
        return _solve_two_terms(logs["n_params"], logs["tokens"], loss)[:, [0, 2, 4, 1, 3]]


def find_form(form: str | Form) -> Form:
    """The form of that name, or the object itself.

    Raises:
        LawError: no form has that name.
    """
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise LawError(f"There is no form {form!r}. {did_you_mean(str(form), FORMS)} Or pass a Form object.")
    return FORMS[form]


FORMS: dict[str, Form] = {
    form.name: form
    for form in (Bootstrap(), Multiplicative(), Additive(), TotalTokens(), EffectiveTransfer(), Chinchilla())
}
