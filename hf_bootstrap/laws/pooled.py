"""Forms of two training stages that put the tokens of both into one pool; all of them hold from scratch (D1 = 0).

D1 = base_tokens, D2 = tokens, raw counts; losses in nats per token, logs natural.
"""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from .jets import Jet, log_add_exp, variables
from .starts import EXPONENTS, FEW_FLOORS, FLOORS, matrix, power_term_starts
from .terms import Curved, FloatArray, LogLinear, Logs, Part, Term

__all__ = ["CptDynamics", "EffectiveTransfer", "TotalTokens", "Unified"]


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
    domain = "D1 + D2 > 0; both stages on the same data, without re-warming losses."
    units: Mapping[str, str] = {
        "A": "nats at 1 token",
        "alpha": "exponent of D1 + D2",
        "E": "nats per token, the floor",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha ln(D1 + D2), and ln E."""
        total = np.logaddexp(logs["base_tokens"], logs["tokens"])
        return [matrix(len(total), 1, -total, 0), matrix(len(total), 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return power_term_starts(self.design(logs)[0][:, :2], loss, FLOORS)


@final
class EffectiveTransfer(Curved):
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
    domain = "D2 > 0, D1 >= 0; the base never hurts, and its advantage ends as D2 grows."
    units: Mapping[str, str] = {
        "A": "nats at 1 token",
        "alpha": "exponent from scratch",
        "k": "tokens worth of a first-stage token (tokens^(1 - b))",
        "b": "exponent of D1 in what it is worth",
        "E": "nats per token, the floor",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The logs of its terms: ln A - alpha ln(D2 + k D1^b), and ln E."""
        log_a, alpha, log_k, b, log_e = theta
        return [log_a - alpha * log_add_exp(_moved(logs, log_k, b), logs["tokens"]), log_e]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of k (by the share it moves) and b, then one regression per floor."""
        u, v = logs["base_tokens"], logs["tokens"]
        has_base = np.isfinite(u)
        middle = u[has_base].mean() if has_base.any() else 0.0
        found = []
        for b in (0.15, 0.4, 0.7, 1.0):
            for ratio in (0.03, 0.3, 1.0, 3.0, 30.0):
                log_k = np.log(ratio) + v.mean() - b * middle
                pool = log_add_exp(_moved(logs, log_k, b), v).value
                simple = power_term_starts(matrix(len(v), 1, -pool), loss, FEW_FLOORS)
                found += [[log_a, alpha, log_k, b, log_e] for log_a, alpha, log_e in simple]
        return np.array(found)


@final
class CptDynamics(Curved):
    """At constant learning rate: one curve through both stages, and a shift that the second stage works off.

    B < 0 means that the shift helps. The shift does not depend on the base: the sharpest rival of `Bootstrap`.
    """

    name = "cpt_dynamics"
    formula = "L = A * (D1 + D2)^-alpha + B * (1 - (1 + c * D2)^-beta) + E"
    source = "Wang et al. 2025, arXiv:2505.07796, at a constant learning rate, in tokens"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha", "B", "beta", "c", "E")
    positive = frozenset({"A", "c", "E"})
    covers_scratch = True
    either_sign = frozenset({"B", "beta"})
    floor = "E + B"
    domain = (
        "Constant learning rate; the loss on one domain through the whole run. From scratch (D1 = 0) it says that "
        "a run on the second domain alone pays the same shift."
    )
    units: Mapping[str, str] = {
        "A": "nats at 1 token",
        "alpha": "exponent of D1 + D2",
        "B": "nats, the whole shift; of either sign",
        "beta": "exponent of the shift",
        "c": "1 / token",
        "E": "nats per token, the floor without a shift",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The logs of its positive terms: ln A - alpha ln(D1 + D2), and ln E."""
        return [theta[0] - theta[1] * np.logaddexp(logs["base_tokens"], logs["tokens"]), theta[5]]

    def signed_parts(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The shift."""
        _, _, b, beta, log_c, _ = theta
        return [b * (1.0 - (-beta * log_add_exp(log_c + logs["tokens"], np.zeros(1))).exp())]

    def floors(self, theta: FloatArray) -> FloatArray | None:
        """E + B, what is left when the shift is worked off; NaN where beta is not positive: then it never is."""
        return np.where(theta[:, 3] > 0, np.exp(theta[:, 5]) + theta[:, 2], np.nan)

    def to_search(self, theta: FloatArray) -> FloatArray:
        """With E + B, the floor after the shift, in place of B: it is known where neither of them is.

        A shift that is fast beside the data (c D2 far above 1) leaves of E and B only their sum, and c and B
        trade: E grows by what B loses. Along that valley E + B stays where it is.
        """
        place = theta.copy()
        place[:, 2] += np.exp(theta[:, 5])
        return place

    def from_search(self, place: FloatArray) -> FloatArray:
        """The inverse of `to_search`."""
        theta = place.copy()
        theta[:, 2] -= np.exp(place[:, 5])
        return theta

    def search_terms(self, logs: Logs, place: FloatArray) -> Sequence[Term | Part]:
        """As promised by `Form`."""
        known = variables(place)
        known[2] = known[2] - known[5].exp()
        return self.terms_of(logs, known)

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and of c; A, B and E by least squares of the relative error, B of either sign."""
        total, v, found = np.logaddexp(logs["base_tokens"], logs["tokens"]), logs["tokens"], []
        for c in np.median(-v) + np.log([0.03, 0.3, 3.0, 30.0, 1000.0]):
            for beta in (0.1, 0.3, 0.7, 1.5):
                shift = 1 - np.exp(-beta * np.logaddexp(0, c + v))
                for alpha in (*EXPONENTS, 1.1):
                    curve = np.exp(-alpha * (total - total.mean()))
                    shapes = np.stack([curve, shift, np.ones_like(v)], axis=1) / loss[:, None]
                    a, b, e = np.linalg.lstsq(shapes, np.ones_like(v), rcond=None)[0]
                    least = 0.01 * loss.min()
                    a, e = max(a, least), max(e, least)
                    found.append([np.log(a) + alpha * total.mean(), alpha, b, beta, c, np.log(e)])
        return np.array(found)


@final
class Unified(Curved):
    """Both stages in one pool, a generalised mean between their sum and their product.

    The pool is P = (D2^s + k D1^s)^(1/s), and the loss is that of P tokens from scratch: at D1 = 0 the law from
    scratch, at k = s = 1 `TotalTokens`. k and s have no unit: twice the tokens of both stages always lower the loss as
    twice the tokens from scratch would. With w = D2^s / (D2^s + k D1^s) the exponents of the reducible loss are
    alpha w in D2 and alpha (1 - w) in D1: never negative, so there is no wall. In D2 the exponent falls with ln D1
    at the rate alpha s w (1 - w), which is what alpha3 is in `Bootstrap`: nearly a line over the 2 / s e-folds in
    which both stages count, flat before and after. With s = 1 the bend is that of `EffectiveTransfer` at b = 1.

    Its limits: a base never hurts, slices at fixed D1 are no pure power laws, and a floor does not move with D1. On
    our two pilot tables, rows from scratch included, it beats effective transfer with as many parameters (AICc -249
    against -240, and -196 against -190), but not the interaction law with a branch from scratch (-267 and -200).
    """

    name = "unified"
    formula = "L = A * (D2^s + k * D1^s)^(-alpha / s) + E"
    source = "ours: a generalised mean in place of the sum in effective transfer (arXiv:2102.01293)"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha", "k", "s", "E")
    positive = frozenset({"A", "k", "s", "E"})
    covers_scratch = True
    domain = (
        "D2 > 0, D1 >= 0. A base never hurts, and far beyond its worth it is forgotten. Where bases are worth little, "
        "k and s cannot be told apart."
    )
    units: Mapping[str, str] = {
        "A": "nats at 1 token",
        "alpha": "exponent from scratch",
        "k": "worth of the base; k^(1/s) is that of one of its tokens",
        "s": "sharpness of the turn from base to second stage",
        "E": "nats per token, the floor",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The logs of its terms: ln A - (alpha / s) ln(D2^s + k D1^s), and ln E."""
        log_a, alpha, log_k, log_s, log_e = theta
        s = log_s.exp()
        return [log_a - alpha / s * log_add_exp(_moved(logs, log_k, s), s * logs["tokens"]), log_e]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of s and of the share the base has, then one regression per floor."""
        u, v, found = logs["base_tokens"], logs["tokens"], []
        has_base = np.isfinite(u)
        middle = u[has_base].mean() if has_base.any() else 0.0
        for s in (0.1, 0.25, 0.5, 1.0, 2.0):
            for ratio in (0.1, 0.5, 1.0, 3.0, 10.0):
                log_k = np.log(ratio) + s * (v.mean() - middle)
                pool = log_add_exp(_moved(logs, log_k, s), s * v).value / s
                simple = power_term_starts(matrix(len(v), 1, -pool), loss, FEW_FLOORS)
                found += [[log_a, alpha, log_k, np.log(s), log_e] for log_a, alpha, log_e in simple]
        return np.array(found)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """That of D1 is alpha (1 - w), that of D2 alpha w, with w the share of the second stage in the pool."""
        _, alpha, log_k, log_s, _ = theta.T[:, :, None]
        based = np.isfinite(logs["base_tokens"])
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(log_k + np.exp(log_s) * (logs["base_tokens"] - logs["tokens"])))
        return {"base_tokens": np.where(based, alpha * (1 - share), np.nan), "tokens": alpha * share}


def _moved(logs: Logs, log_k: Jet | float, b: Jet | float) -> Jet:
    """ln(k D1^b). From scratch nothing is moved, whatever b a fit is trying out: 0^b is 0 here, also for b <= 0."""
    has_base = np.isfinite(logs["base_tokens"])
    worth = log_k + b * np.where(has_base, logs["base_tokens"], 0.0)
    absent = np.where(has_base, 0.0, -np.inf)
    return worth + absent if isinstance(worth, Jet) else Jet(worth + absent)
