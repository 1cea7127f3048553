"""Numbers that carry their first and second derivatives, so that a form that is not log-linear states only its formula.

Forward differentiation, exact to rounding. A derivative that is zero is absent, and costs nothing.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Jet", "log_add_exp", "variables"]

_Array = npt.NDArray[np.float64]
_Key = TypeVar("_Key", int, tuple[int, int])


@dataclass(frozen=True)
class Jet:
    """A value with derivatives in the parameters of a law; every array broadcasts to (problems, rows).

    Attributes:
        value: the value.
        slope: parameter -> first derivative; absent where it is zero.
        curvature: (i, j) with i <= j -> second derivative; absent where it is zero.
    """

    value: _Array
    slope: dict[int, _Array] = field(default_factory=dict)
    curvature: dict[tuple[int, int], _Array] = field(default_factory=dict)

    # Without it numpy would spread `array * jet` over the array's elements.
    __array_ufunc__ = None

    def through(self, value: _Array, first: _Array, second: _Array | float) -> "Jet":
        """f(self), given f, f' and f'' at `self.value`."""
        curvature = {pair: first * bend for pair, bend in self.curvature.items()}
        if not (isinstance(second, float) and second == 0.0):
            names = sorted(self.slope)
            for n, i in enumerate(names):
                bent = second * self.slope[i]
                for j in names[n:]:
                    product = bent * self.slope[j]
                    curvature[i, j] = curvature[i, j] + product if (i, j) in curvature else product
        return Jet(value, {i: first * slope for i, slope in self.slope.items()}, curvature)

    def joined(
        self, other: "Jet", value: _Array, first: tuple[_Array, _Array], second: tuple[_Array, _Array, _Array]
    ) -> "Jet":
        """f(self, other), given f, its first derivatives, and its second ones (of self, mixed, of other)."""
        (mine, theirs), (own, mixed, apart) = first, second
        total = self.through(value, mine, own) + other.through(np.zeros_like(value), theirs, apart)
        curvature = dict(total.curvature)
        for i, x in self.slope.items():
            pulled = mixed * x
            for j, y in other.slope.items():
                pair = (min(i, j), max(i, j))
                curvature[pair] = curvature.get(pair, 0.0) + pulled * y * (2.0 if i == j else 1.0)
        return Jet(value, total.slope, curvature)

    def exp(self) -> "Jet":
        """The exponential function of it."""
        value = np.exp(self.value)
        return self.through(value, value, value)

    def expm1(self) -> "Jet":
        """The exponential function less 1, exact also near 0."""
        slope = np.exp(self.value)
        return self.through(np.expm1(self.value), slope, slope)

    def log(self) -> "Jet":
        """The natural logarithm."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.through(np.log(self.value), 1 / self.value, -1 / self.value**2)

    def where(self, condition: npt.NDArray[np.bool_], other: "Jet") -> "Jet":
        """Itself where `condition` holds, else `other`, derivatives included."""

        def choose(mine: _Array | float, theirs: _Array | float) -> _Array:
            return np.where(condition, mine, theirs)

        return Jet(
            choose(self.value, other.value),
            {i: choose(self.slope.get(i, 0.0), other.slope.get(i, 0.0)) for i in self.slope | other.slope},
            {
                pair: choose(self.curvature.get(pair, 0.0), other.curvature.get(pair, 0.0))
                for pair in self.curvature | other.curvature
            },
        )

    def __add__(self, other: "Jet | _Array | float") -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.slope, self.curvature)
        return Jet(self.value + other.value, _sum(self.slope, other.slope), _sum(self.curvature, other.curvature))

    def __mul__(self, other: "Jet | _Array | float") -> "Jet":
        if not isinstance(other, Jet):
            return Jet(
                self.value * other,
                {i: slope * other for i, slope in self.slope.items()},
                {pair: bend * other for pair, bend in self.curvature.items()},
            )
        slope = _sum(
            {i: x * other.value for i, x in self.slope.items()}, {i: x * self.value for i, x in other.slope.items()}
        )
        curvature = _sum(
            {pair: x * other.value for pair, x in self.curvature.items()},
            {pair: x * self.value for pair, x in other.curvature.items()},
        )
        for i, mine in self.slope.items():
            for j, theirs in other.slope.items():
                pair = (min(i, j), max(i, j))
                product = mine * theirs * (2.0 if i == j else 1.0)
                curvature[pair] = curvature.get(pair, 0.0) + product
        return Jet(self.value * other.value, slope, curvature)

    def __neg__(self) -> "Jet":
        return self * -1.0

    def __sub__(self, other: "Jet | _Array | float") -> "Jet":
        return self + (-other)

    def __rsub__(self, other: "_Array | float") -> "Jet":
        return -self + other

    def __truediv__(self, other: "Jet | _Array | float") -> "Jet":
        if not isinstance(other, Jet):
            return self * (1 / other)
        one = 1 / other.value
        return self * other.through(one, -(one**2), 2 * one**3)

    __radd__ = __add__
    __rmul__ = __mul__


def _sum(mine: dict[_Key, _Array], theirs: dict[_Key, _Array]) -> dict[_Key, _Array]:
    total = dict(mine)
    for key, value in theirs.items():
        total[key] = total[key] + value if key in total else value
    return total


def variables(theta: _Array) -> list[Jet]:
    """The parameters of every problem as independent variables.

    Args:
        theta: (problems, parameters).

    Returns:
        One jet per parameter, of shape (problems, 1).
    """
    one = np.ones((1, 1))
    return [Jet(theta[:, i, None], {i: one}) for i in range(theta.shape[1])]


def log_add_exp(first: "Jet | _Array", second: "Jet | _Array") -> Jet:
    """ln(e^first + e^second) without overflow; an entry of -inf adds nothing and moves nothing."""
    a, b = (x if isinstance(x, Jet) else Jet(x) for x in (first, second))
    value = np.logaddexp(a.value, b.value)
    share = np.exp(a.value - value)  # of the first
    bend = share * (1 - share)
    total = a.through(value, share, 0.0) + b.through(np.zeros_like(value), 1 - share, 0.0)
    gap = _sum(a.slope, {i: -slope for i, slope in b.slope.items()})
    curvature = dict(total.curvature)
    names = sorted(gap)
    for n, i in enumerate(names):
        for j in names[n:]:
            curvature[i, j] = curvature.get((i, j), 0.0) + bend * gap[i] * gap[j]
    return Jet(value, total.slope, curvature)
