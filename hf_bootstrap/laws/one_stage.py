"""Forms of one training stage, and of one further stage without its base's tokens.

D = tokens, N = n_params, U = unique_tokens, raw counts; r = mixture_ratio in (0, 1]; losses in nats per token.
"""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from .jets import Jet, log_add_exp
from .starts import EXPONENTS, amounts, matrix, two_term_starts
from .terms import Curved, FloatArray, LogLinear, Logs

__all__ = ["Chinchilla", "CrossLingual", "DCpt", "DataConstrained", "Gadre", "Kaplan"]

_FLOOR = "nats per token, the floor"


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
    domain = "Every token seen once; learning rate, its decay and the batch tuned for each N and D."
    units: Mapping[str, str] = {
        "A": "nats at N = 1 parameter",
        "B": "nats at D = 1 token",
        "E": _FLOOR,
        "alpha": "exponent of N",
        "beta": "exponent of D",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha ln N, ln B - beta ln D, and ln E."""
        d, n = logs["tokens"], logs["n_params"]
        return [
            matrix(len(d), 1, 0, 0, -n, 0),
            matrix(len(d), 0, 1, 0, 0, -d),
            matrix(len(d), 0, 0, 1, 0, 0),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and floors, amounts by least squares."""
        return two_term_starts(logs["n_params"], logs["tokens"], loss)[:, [0, 2, 4, 1, 3]]


@final
class CrossLingual(LogLinear):
    """Continued pretraining in another language: what a token buys depends on the size of the model that brings it."""

    name = "cross_lingual"
    formula = "L = A * N^-alpha + B * D^-beta * N^-gamma + E"
    source = "Zheng et al. 2024, arXiv:2407.02118"
    columns = ("tokens", "n_params")
    parameters = ("A", "B", "E", "alpha", "beta", "gamma")
    positive = frozenset({"A", "B", "E"})
    covers_scratch = True
    domain = "One base per size, all trained alike; at gamma = 0 it is chinchilla."
    units: Mapping[str, str] = {
        **Chinchilla.units,
        "B": "nats at D = N = 1",
        "gamma": "exponent of N in what a token buys",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha ln N, ln B - beta ln D - gamma ln N, and ln E."""
        d, n = logs["tokens"], logs["n_params"]
        return [
            matrix(len(d), 1, 0, 0, -n, 0, 0),
            matrix(len(d), 0, 1, 0, 0, -d, -n),
            matrix(len(d), 0, 0, 1, 0, 0, 0),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of the three exponents, amounts by least squares."""
        d, n, zero, found = logs["tokens"], logs["n_params"], np.zeros_like(loss), []
        for alpha in EXPONENTS:
            for beta in EXPONENTS:
                for gamma in (0.0, 0.1, 0.3):
                    log_a, log_b, log_e = amounts([-alpha * n, -beta * d - gamma * n, zero], loss)
                    found.append([log_a, log_b, log_e, alpha, beta, gamma])
        return np.array(found)


@final
class Gadre(LogLinear):
    """Over-training: at every M = D / N the same exponent of compute; chinchilla with equal exponents."""

    name = "gadre"
    formula = "L = (a * M^eta + b * M^-eta) * C^-eta + E; M = D / N, C = 6 * N * D"
    source = "Gadre et al. 2024, arXiv:2403.08540"
    columns = ("tokens", "n_params")
    parameters = ("a", "b", "eta", "E")
    positive = frozenset({"a", "b", "E"})
    covers_scratch = True
    domain = "As chinchilla; it cannot bend differently in N and in D: both exponents are 2 eta."
    units: Mapping[str, str] = {"a": "nats at M = 1, C = 1 FLOP", "b": "the same", "eta": "exponent of C", "E": _FLOOR}

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln a - eta ln(6 N^2), ln b - eta ln(6 D^2), and ln E."""
        d, n, six = logs["tokens"], logs["n_params"], np.log(6)
        rows = len(d)
        return [
            matrix(rows, 1, 0, -six - 2 * n, 0),
            matrix(rows, 0, 1, -six - 2 * d, 0),
            matrix(rows, 0, 0, 0, 1),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of eta, amounts by least squares."""
        designs, found = self.design(logs), []
        for eta in np.linspace(0.02, 0.5, 25):
            log_a, log_b, log_e = amounts([eta * designs[0][:, 2], eta * designs[1][:, 2], np.zeros_like(loss)], loss)
            found.append([log_a, log_b, eta, log_e])
        return np.array(found)


@final
class Kaplan(Curved):
    """Size and tokens as two bottlenecks in one power, without a floor."""

    name = "kaplan"
    formula = "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D"
    source = "Kaplan et al. 2020, arXiv:2001.08361, equation 1.5"
    columns = ("tokens", "n_params")
    parameters = ("N_c", "D_c", "alpha_N", "alpha_D")
    positive = frozenset({"N_c", "D_c", "alpha_N", "alpha_D"})
    covers_scratch = True
    shared = ()
    domain = "Positive exponents, non-embedding N; far from the loss that no model beats, because it has no floor."
    units: Mapping[str, str] = {
        "N_c": "parameters",
        "D_c": "tokens",
        "alpha_N": "exponent of N",
        "alpha_D": "exponent of D",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The log of the loss: alpha_D ln((N_c / N)^(alpha_N / alpha_D) + D_c / D)."""
        log_n, log_d, log_alpha_n, log_alpha_d = theta
        size = (log_alpha_n - log_alpha_d).exp() * (log_n - logs["n_params"])
        return [log_alpha_d.exp() * log_add_exp(size, log_d - logs["tokens"])]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of both exponents; both amounts by least squares of L^(1 / alpha_D)."""
        d, n, found = logs["tokens"], logs["n_params"], []
        for alpha_n in (0.03, 0.06, 0.1, 0.17, 0.3, 0.5):
            for alpha_d in (0.03, 0.06, 0.1, 0.17, 0.3, 0.5):
                ratio = alpha_n / alpha_d
                scaled = (loss / loss.mean()) ** (1 / alpha_d)
                size, data = amounts([-ratio * n, -d], scaled)
                log_mean = np.log(loss.mean()) / alpha_d
                found.append([(size + log_mean) / ratio, data + log_mean, np.log(alpha_n), np.log(alpha_d)])
        return np.array(found)


@final
class DataConstrained(Curved):
    """Chinchilla where tokens repeat: each further epoch is worth less, and so is a model too large for its data."""

    name = "data_constrained"
    formula = (
        "L = A * N'^-alpha + B * D'^-beta + E; D' = W + R_D * W * (1 - exp(-(D / W - 1) / R_D)), "
        "N' = V + R_N * V * (1 - exp(-(N / V - 1) / R_N)), V = min(N, G * (G * W)^(beta / alpha)), "
        "G = (alpha * A / (beta * B))^(1 / (alpha + beta)), W = min(U, D)"
    )
    source = "Muennighoff et al. 2023, arXiv:2305.16264"
    columns = ("tokens", "n_params", "unique_tokens")
    parameters = ("A", "B", "E", "alpha", "beta", "R_D", "R_N")
    positive = frozenset({"A", "B", "E", "alpha", "beta", "R_D", "R_N"})
    covers_scratch = True
    domain = "Repeats in whole passes over U; it cannot show that many epochs make the loss rise."
    units: Mapping[str, str] = {
        **Chinchilla.units,
        "R_D": "epochs beyond the first after which repeating has lost its worth",
        "R_N": "the same of parameters beyond those the unique tokens call for",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The logs of its terms: ln A - alpha ln N', ln B - beta ln D', and ln E."""
        log_a, log_b, log_e, log_alpha, log_beta, log_rd, log_rn = theta
        n, unique = logs["n_params"], np.minimum(logs["unique_tokens"], logs["tokens"])
        alpha, beta = log_alpha.exp(), log_beta.exp()
        log_g = (log_alpha + log_a - log_beta - log_b) / (alpha + beta)
        called = log_g + (log_beta - log_alpha).exp() * (log_g + unique)
        model, data = _sized(n, called, log_rn), unique + _repeated(logs["tokens"] - unique, log_rd)
        return [log_a + -alpha * model, log_b + -beta * data, log_e]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents, R_D and R_N; amounts by least squares at N and D'."""
        d, n, found = logs["tokens"], logs["n_params"], []
        unique = np.minimum(logs["unique_tokens"], d)
        for log_rd in np.log([2.0, 8.0, 30.0]):
            worth = unique + _repeated(d - unique, Jet(np.full((1, 1), log_rd))).value[0]
            simple = two_term_starts(n, worth, loss)
            for log_rn in np.log([1.0, 5.0, 30.0]):
                found += [[a, b, e, np.log(x), np.log(y), log_rd, log_rn] for a, x, b, y, e in simple]
        return np.array(found)


def _worn(excess: FloatArray, log_r: FloatArray) -> tuple[FloatArray, ...]:
    """What a resource is worth that wears out: of one, and again for all of e^`excess` of it.

    w = 1 + R (1 - exp(-x / R)), with x = e^excess - 1 repeats.

    Returns:
        x, x / R, exp(-x / R), w, and the first and second derivative of ln w in ln R.
    """
    x, r = np.expm1(excess), np.exp(log_r)
    worn = x / r
    left = np.exp(-worn)
    # With expm1 and a series it is exact also where R is without bound and every further use is worth the first.
    worth = 1 - r * np.expm1(-worn)
    lost = np.where(worn < 1e-3, worn**2 * (0.5 - worn / 3 + worn**2 / 8), 1 - (1 + worn) * left)
    fade = r * lost / worth
    return x, worn, left, worth, fade, fade - x * worn * left / worth - fade**2


def _repeated(excess: FloatArray, log_r: Jet) -> Jet:
    """The ln of what data are worth that are read e^`excess` times, per token of one pass."""
    *_, worth, fade, faded = _worn(excess, log_r.value)
    return log_r.through(np.log(worth), fade, faded)


def _sized(n: FloatArray, called: Jet, log_r: Jet) -> Jet:
    """The ln of what a model of size e^n is worth where the data call for one of e^`called`; all of it below that."""
    excess = np.maximum(n - called.value, 0.0)
    x, worn, left, worth, fade, faded = _worn(excess, log_r.value)
    more = left * (x + 1) / worth  # the derivative of ln w in the excess, which falls as `called` rises
    bend = np.where(excess > 0, more - more * (x + 1) / np.exp(log_r.value) - more**2, 0.0)
    size = n - excess + np.log(worth)
    return called.joined(log_r, size, (1 - more, fade), (bend, more * (fade - worn), faded))


@final
class DCpt(Curved):
    """Continued pretraining on a mixture: the loss on the domain that makes up the share r of the tokens."""

    name = "d_cpt"
    formula = "L = A * N^-alpha + B * r^eta * D^-beta + C * (r + epsilon)^-gamma + E"
    source = "Que et al. 2024, arXiv:2406.01375"
    columns = ("tokens", "n_params", "mixture_ratio")
    parameters = ("A", "alpha", "B", "beta", "eta", "C", "gamma", "epsilon", "E")
    positive = frozenset({"A", "B", "C", "epsilon", "E"})
    covers_scratch = True
    either_sign = frozenset({"eta", "gamma"})
    domain = "0 < r <= 1, at five or more levels: three parameters rest on r alone."
    units: Mapping[str, str] = {
        **Chinchilla.units,
        "B": "nats at D = 1 token, r = 1",
        "eta": "exponent of r",
        "C": "nats",
        "gamma": "exponent of r + epsilon",
        "epsilon": "share of tokens",
    }

    def logs_of_terms(self, logs: Logs, theta: Sequence[Jet]) -> Sequence[Jet]:
        """The logs of its terms; ln(r + epsilon) is what keeps it from being log-linear."""
        log_a, alpha, log_b, beta, eta, log_c, gamma, log_epsilon, log_e = theta
        d, n, r = logs["tokens"], logs["n_params"], logs["mixture_ratio"]
        mixed = log_add_exp(log_epsilon, r)
        return [log_a - alpha * n, log_b - beta * d + eta * r, log_c - gamma * mixed, log_e]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and of epsilon; amounts by least squares."""
        d, n, r, zero, found = logs["tokens"], logs["n_params"], logs["mixture_ratio"], np.zeros_like(loss), []
        for alpha, beta in [(a, b) for a in (0.15, 0.35, 0.6) for b in (0.15, 0.35, 0.6)]:
            for eta, gamma, log_epsilon in [
                (x, y, np.log(z)) for x in (-0.3, 0.05, 0.5) for y in (0.1, 0.5, 1.5) for z in (0.01, 0.1)
            ]:
                shapes = [-alpha * n, eta * r - beta * d, -gamma * np.logaddexp(log_epsilon, r), zero]
                log_a, log_b, log_c, log_e = amounts(shapes, loss)
                found.append([log_a, alpha, log_b, beta, eta, log_c, gamma, log_epsilon, log_e])
        return np.array(found)
