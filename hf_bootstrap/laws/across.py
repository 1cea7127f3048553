"""Do ways to reuse the same bases share their exponents? One law with a factor for each, against a law for each.

Methods are comparable where text and size of their second stages are the same: then they share a floor too. What one
method's law says by itself is the business of `law`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..errors import FitError, LawError
from .evidence import held_out_errors
from .fitting import Fit, fit_form, refit
from .points import Points
from .resampling import FEW, MANY, Replicates, draw_clusters, error_over_clusters
from .starts import FLOORS, power_term_starts
from .terms import FloatArray, LogLinear, Logs

__all__ = ["Difference", "SharedExponents", "compare_exponents"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What one method's law has more of than another's.

    Attributes:
        first, second: the methods; the difference is that of the first less that of the second.
        quantity: "alpha3", or "exponent": that of D2 at `base_tokens`.
        base_tokens: D1 at which exponents are compared, the geometric mean of the bases.
        value, low, high: with its interval over the bases, which both methods share; those of one comparison hold
            together at 95% (Bonferroni).
    """

    first: str
    second: str
    quantity: str
    base_tokens: float
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The difference in one line."""
        interval = f"[{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.quantity} of {self.first} less that of {self.second}: {self.value:+.4f} {interval}"


@dataclass(frozen=True, kw_only=True)
class SharedExponents:
    """Whether one set of exponents does for several methods.

    Attributes:
        methods: those compared.
        n_points, n_bases: rows with a base, and the bases that are left out in turn.
        shared, separate: mean |predicted / measured - 1| on the rows of a base left out, with one set of alpha1, alpha2
            and alpha3 for all methods, and with a set for each; a factor A for each and one floor E in both.
        gap, gap_low, gap_high: `shared` less `separate`, with the 95% interval, t over the bases.
        differences: of every pair of methods.
    """

    methods: tuple[str, ...]
    n_points: int
    n_bases: int
    shared: float
    separate: float
    gap: float
    gap_low: float
    gap_high: float
    differences: tuple[Difference, ...]

    @property
    def agree(self) -> bool:
        """Whether neither the gap nor any difference speaks against shared exponents."""
        return self.gap_low <= 0 and all(found.low <= 0 <= found.high for found in self.differences)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {**asdict(self), "agree": self.agree}

    def __str__(self) -> str:
        """The answer, then the numbers behind it."""
        names = f"{', '.join(self.methods[:-1])} and {self.methods[-1]}"
        told = "agree as far as these points can tell" if self.agree else "differ"
        gap = f"{self.gap:+.2%} [{self.gap_low:+.2%}, {self.gap_high:+.2%}]"
        answer = (
            f"The exponents of {names} {told}: on bases left out, shared exponents miss by {self.shared:.2%} and "
            f"separate ones by {self.separate:.2%} (difference {gap}, {self.n_bases} bases)."
        )
        return "\n".join([answer, *map(str, self.differences)])


def compare_exponents(points: Any, methods: Sequence[str], *, resamples: int = 500, seed: int = 0) -> SharedExponents:
    """Fit methods together, with shared and with separate exponents, and leave out each base in turn.

    Args:
        points: as for `Points.read`.
        methods: two or more, with second stages on the same text at the same size, from the same bases.
        resamples: of the bases, for the intervals of differences.
        seed: of the draws.

    Raises:
        LawError: fewer than two methods, another text or size, or bases that are not the same.
        FitError: too few points or bases.
    """
    rows = [_based(points, method) for method in methods]
    if len(rows) < 2:
        raise LawError(f"There is nothing to compare: {list(methods)}. Name two methods or more.")
    _check_alike(methods, rows)
    bases = _bases(methods, rows)
    group = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    loss = np.concatenate([part.loss for part in rows])
    logs = {
        "base_tokens": np.concatenate([np.log(np.asarray(part.base_tokens)) for part in rows]),
        "tokens": np.concatenate([np.log(part.tokens) for part in rows]),
        "group": group.astype(np.float64),
    }
    out = np.array([bases == base for base in dict.fromkeys(bases)])
    fits = [fit_form(_Methods(len(rows), shared=shared), logs, loss) for shared in (True, False)]
    missed = [np.minimum(held_out_errors(fit, logs, loss, list(out)), 1.0) for fit in fits]
    gap = missed[0] - missed[1]
    clusters = [np.flatnonzero(rows) for rows in out]
    gap_low, gap_high = _around(gap, clusters)
    return SharedExponents(
        methods=tuple(methods),
        n_points=len(loss),
        n_bases=len(out),
        shared=float(missed[0].mean()),
        separate=float(missed[1].mean()),
        gap=float(gap.mean()),
        gap_low=gap_low,
        gap_high=gap_high,
        differences=_differences(methods, fits[1], logs, loss, clusters, resamples, seed),
    )


def _based(points: Any, method: str) -> Points:
    found = Points.read(points, where={"method": method})
    return found.take(~found.from_scratch)


def _check_alike(methods: Sequence[str], rows: Sequence[Points]) -> None:
    """Refuse methods whose losses do not mean the same."""
    for name, what in (("domain", "text"), ("n_params", "size")):
        found = {
            method: sorted({str(value) for value in column})
            for method, part in zip(methods, rows, strict=True)
            if (column := getattr(part, name)) is not None
        }
        flat = sorted(float(value) for values in found.values() for value in values) if name == "n_params" else []
        same = flat[-1] <= 1.01 * flat[0] if flat else len({tuple(values) for values in found.values()}) <= 1
        if not same:
            raise LawError(
                f"The methods differ in {what} ({name}): {found}. Their floors are then not one, so exponents cannot "
                "be compared; compare methods of one text and one size."
            )


def _bases(methods: Sequence[str], rows: Sequence[Points]) -> Any:
    """The base of every row: trunks where there are at least six, else checkpoints, which all methods must share."""
    for name, least in (("base_run_id", MANY), ("base_checkpoint_id", FEW)):
        columns = [getattr(part, name) for part in rows]
        if any(column is None for column in columns):
            continue
        kinds = [set(column.tolist()) for column in columns]
        if len(kinds[0]) >= least and all(kind == kinds[0] for kind in kinds):
            return np.concatenate(columns)
    raise FitError(
        f"{' and '.join(methods)} do not share {FEW} bases or more that are known by their base_checkpoint_id, so none "
        "can be left out. Measure the methods from the same bases."
    )


def _around(gap: FloatArray, bases: Sequence[npt.NDArray[np.int64]]) -> tuple[float, float]:
    """The 95% interval of a mean over rows, t over the bases."""
    from scipy.special import stdtrit

    half = float(stdtrit(len(bases) - 1, 0.975)) * error_over_clusters(gap, [bases])
    return float(gap.mean() - half), float(gap.mean() + half)


def _differences(
    methods: Sequence[str],
    fit: Fit,
    logs: Logs,
    loss: FloatArray,
    bases: list[npt.NDArray[np.int64]],
    resamples: int,
    seed: int,
) -> tuple[Difference, ...]:
    """Of every pair of methods, from refits on the same resampled bases."""
    weights = draw_clusters([bases], len(loss), resamples, seed)
    theta = refit(fit, logs, loss[None], weights).theta
    replicates = Replicates(
        theta=theta, method="bootstrap", unit="base", clusters=len(bases), strata=np.zeros(resamples, dtype=np.int64)
    )
    middle, m = float(logs["base_tokens"].mean()), len(methods)
    alpha2, alpha3 = (slice(k * m, (k + 1) * m) for k in (2, 3))
    quantities = (
        ("alpha3", fit.theta[alpha3], theta[:, alpha3]),
        ("exponent", fit.theta[alpha2] - fit.theta[alpha3] * middle, theta[:, alpha2] - theta[:, alpha3] * middle),
    )
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    level = 1 - 0.05 / (len(pairs) * len(quantities))
    found = []
    for (i, j), (quantity, whole, drawn) in itertools.product(pairs, quantities):
        value = whole[i] - whole[j]
        interval = replicates.interval(value, drawn[:, i] - drawn[:, j], level)
        assert interval is not None
        found.append(
            Difference(
                first=methods[i],
                second=methods[j],
                quantity=quantity,
                base_tokens=float(np.exp(middle)),
                value=float(value),
                low=float(interval[0]),
                high=float(interval[1]),
            )
        )
    return tuple(found)


@final
class _Methods(LogLinear):
    """The bootstrap law of several methods: theta is A, alpha1, alpha2, alpha3 of each (or A of each), and one E."""

    name = "methods"
    formula = "L = A(method) * D1^-alpha1 * D2^(-alpha2 + alpha3 ln D1) + E"
    source = "Liew & Kato 2025, arXiv:2510.06548, who report that growth methods share their exponents"
    columns = ("base_tokens", "tokens", "group")
    covers_scratch = False

    def __init__(self, methods: int, *, shared: bool) -> None:
        self._methods, self._shared = methods, shared
        sets = 1 if shared else methods
        exponents = [f"alpha{k}_{i}" for k in (1, 2, 3) for i in range(sets)]
        factors = [f"A_{i}" for i in range(methods)]
        self.parameters = (*factors, *exponents, "E")
        self.positive = frozenset({*factors, "E"})
        self.either_sign = frozenset(name for name in exponents if name.startswith("alpha3"))

    def design(self, logs: Logs) -> Sequence[FloatArray]:
        """The logs of its terms: ln A - alpha1 u - alpha2 v + alpha3 u v of a row's own method, and ln E."""
        u, v = logs["base_tokens"][:, None], logs["tokens"][:, None]
        member = (logs["group"][:, None] == np.arange(self._methods)).astype(np.float64)
        sets = np.ones_like(u) if self._shared else member
        zero, one = np.zeros_like(u), np.ones_like(u)
        curve = np.hstack([member, -u * sets, -v * sets, u * v * sets, zero])
        return [curve, np.hstack([np.zeros_like(curve[:, :-1]), one])]

    def starts(self, logs: Logs, loss: FloatArray) -> FloatArray:
        """One regression per floor."""
        return power_term_starts(self.design(logs)[0][:, :-1], loss, FLOORS)
