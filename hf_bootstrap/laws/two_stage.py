"""Forms of two training stages that name what each stage is worth: the founding law, its rivals and its nulls.

D1 = base_tokens, D2 = tokens, N = n_params, all raw counts; losses in nats per token, logs natural. Forms that
pool both stages are in `pooled`, those of one stage in `one_stage`, the dict of all in `forms`.
"""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from .starts import EXPONENTS, FEW_FLOORS, FLOORS, amounts, matrix, power_term_starts, two_term_starts
from .terms import FloatArray, LogLinear, Logs

__all__ = ["Additive", "Barnett", "Bootstrap", "BootstrapN", "Hybrid", "Multiplicative"]


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
    domain = (
        "D1, D2 > 0 and both exponents positive: ln D1 < alpha2 / alpha3 and ln D2 < alpha1 / alpha3; beyond, it says "
        "that loss rises with tokens."
    )
    units: Mapping[str, str] = {
        "A": "nats at D1 = D2 = 1 token",
        "alpha1": "exponent of D1 at D2 = 1 token",
        "alpha2": "exponent of D2 at D1 = 1 token",
        "alpha3": "fall of the exponent per e-fold of tokens",
        "E": "nats per token, the floor",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v + alpha3 u v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        return [matrix(len(v), 1, -u, -v, u * v, 0), matrix(len(v), 0, 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return power_term_starts(self.design(logs)[0][:, :4], loss, FLOORS)

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
    domain = "D1, D2 > 0; diverges as either goes to 0."
    units: Mapping[str, str] = {
        "A": "nats at D1 = D2 = 1 token",
        "alpha1": "exponent of D1",
        "alpha2": "exponent of D2",
        "E": "nats per token, the floor",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        return [matrix(len(v), 1, -u, -v, 0), matrix(len(v), 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return power_term_starts(self.design(logs)[0][:, :3], loss, FLOORS)

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
    domain = "D1, D2 > 0; a floor in D2 that only more D1 lowers."
    units: Mapping[str, str] = {
        "A": "nats at D1 = 1 token",
        "alpha1": "exponent of D1",
        "B": "nats at D2 = 1 token",
        "alpha2": "exponent of D2",
        "E": "nats per token, the floor",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u, ln B - alpha2 v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        rows = len(v)
        return [matrix(rows, 1, -u, 0, 0, 0), matrix(rows, 0, 0, 1, -v, 0), matrix(rows, 0, 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of exponents and floors, amounts by least squares."""
        return two_term_starts(logs["base_tokens"], logs["tokens"], loss)


@final
class BootstrapN(LogLinear):
    """The founding law with a term of model size; the law of upcycling, with N the parameters of the dense base."""

    name = "bootstrap_n"
    formula = "L = A * D1^-alpha1 * D2^(-alpha2 + alpha3 ln D1) + B * N^-beta + E"
    source = "Liew et al. 2025, arXiv:2502.03009, and Liew & Kato 2025, arXiv:2510.06548"
    columns = ("base_tokens", "tokens", "n_params")
    parameters = ("A", "alpha1", "alpha2", "alpha3", "B", "beta", "E")
    positive = frozenset({"A", "B", "E"})
    covers_scratch = False
    shared = ("B * N^-beta", "E")
    domain = "As bootstrap, at three or more model sizes; D1 and D2 of all sizes share one curve."
    units: Mapping[str, str] = {**Bootstrap.units, "B": "nats at N = 1 parameter", "beta": "exponent of N"}

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: those of `Bootstrap`, and ln B - beta ln N before the floor."""
        u, v, n = logs["base_tokens"], logs["tokens"], logs["n_params"]
        rows = len(v)
        return [
            matrix(rows, 1, -u, -v, u * v, 0, 0, 0),
            matrix(rows, 0, 0, 0, 0, 1, -n, 0),
            matrix(rows, 0, 0, 0, 0, 0, 0, 1),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """Exponents of N, floors and shares of the size term from a grid; one regression for each."""
        design, n, found = self.design(logs)[0][:, :4], logs["n_params"], []
        for beta in (0.05, 0.12, 0.2, 0.35, 0.55):
            shape = np.exp(-beta * (n - n.min()))
            for fraction in FEW_FLOORS:
                for share in (0.03, 0.2, 0.5, 0.8):
                    floor = fraction * loss.min()
                    amount = share * np.min((loss - floor) / shape)
                    solution = np.linalg.lstsq(design, np.log(loss - floor - amount * shape), rcond=None)[0]
                    found.append([*solution, np.log(amount) + beta * n.min(), beta, np.log(floor)])
        return np.array(found)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """alpha1 - alpha3 ln D2 and alpha2 - alpha3 ln D1, of the term that tokens lower."""
        u, v, (a1, a2, a3) = logs["base_tokens"], logs["tokens"], theta.T[1:4, :, None]
        return {"base_tokens": a1 - a3 * v, "tokens": a2 - a3 * u}


@final
class Hybrid(LogLinear):
    """Part of the loss is paid off by both stages, part by the second alone: what the base knows nothing of."""

    name = "hybrid"
    formula = "L = A * D1^-alpha1 * D2^-alpha2 + B * D2^-beta + E"
    source = "our reading of the hybrid named in Liew & Kato 2025, arXiv:2510.06548, whose formula we have not seen"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha1", "alpha2", "B", "beta", "E")
    positive = frozenset({"A", "B", "E"})
    covers_scratch = False
    domain = "D1, D2 > 0. With alpha1 near 0 its two terms cannot be told apart."
    units: Mapping[str, str] = {
        **Multiplicative.units,
        "B": "nats at D2 = 1 token",
        "beta": "exponent of D2 in its own term",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v, ln B - beta v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        rows = len(v)
        return [
            matrix(rows, 1, -u, -v, 0, 0, 0),
            matrix(rows, 0, 0, 0, 1, -v, 0),
            matrix(rows, 0, 0, 0, 0, 0, 1),
        ]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of the three exponents, amounts by least squares."""
        u, v, zero, found = logs["base_tokens"], logs["tokens"], np.zeros_like(loss), []
        for a1 in (0.05, 0.2, 0.4, 0.7):
            for a2 in (0.02, 0.15, 0.35, 0.6):
                for beta in EXPONENTS:
                    log_a, log_b, log_e = amounts([-a1 * u - a2 * v, -beta * v, zero], loss)
                    found.append([log_a, a1, a2, log_b, beta, log_e])
        return np.array(found)


@final
class Barnett(LogLinear):
    """Fine-tuning with a transfer gap: what pretraining cannot remove, however long, fine-tuning still lowers."""

    name = "barnett"
    formula = "L = (A * D1^-alpha + G) * D2^-beta + E"
    source = "Barnett 2024, arXiv:2408.16947; p is D1, f is D2"
    columns = ("base_tokens", "tokens")
    parameters = ("A", "alpha", "G", "beta", "E")
    positive = frozenset({"A", "G", "E"})
    covers_scratch = False
    domain = "D1, D2 > 0; the exponent of D2 is the same from every base, so nothing saturates."
    units: Mapping[str, str] = {
        "A": "nats at D1 = D2 = 1 token",
        "alpha": "exponent of D1",
        "G": "nats at D2 = 1 token, the transfer gap",
        "beta": "exponent of D2",
        "E": "nats per token, the floor",
    }

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha u - beta v, ln G - beta v, and ln E."""
        u, v = logs["base_tokens"], logs["tokens"]
        rows = len(v)
        return [matrix(rows, 1, -u, 0, -v, 0), matrix(rows, 0, 0, 1, -v, 0), matrix(rows, 0, 0, 0, 0, 1)]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """A grid of both exponents, amounts by least squares."""
        u, v, zero, found = logs["base_tokens"], logs["tokens"], np.zeros_like(loss), []
        for alpha in (0.05, *EXPONENTS):
            for beta in (0.05, *EXPONENTS):
                log_a, log_g, log_e = amounts([-alpha * u - beta * v, -beta * v, zero], loss)
                found.append([log_a, alpha, log_g, beta, log_e])
        return np.array(found)

    def exponents(self, logs: Logs, theta: FloatArray) -> dict[str, FloatArray] | None:
        """Of D1, alpha times the share of the loss that pretraining can lower; of D2, beta."""
        log_a, alpha, log_g, beta = theta.T[:4, :, None]
        own = log_a - alpha * logs["base_tokens"]
        shape = (len(theta), len(logs["tokens"]))
        share = np.exp(own - np.logaddexp(own, log_g))
        return {"base_tokens": alpha * share, "tokens": np.broadcast_to(beta, shape)}
