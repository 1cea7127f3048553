"""What a study is meant to tell: one number that the law it will fit answers with.

Stated as a function of the law's parameters, on the scale on which its errors are symmetric; the answers of a law that
has been fitted are the business of `laws`.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import StudyError, did_you_mean
from ..laws.terms import FloatArray, Form
from ..units import format_count

__all__ = ["AIMS", "Aim"]

AIMS = ("alpha3", "crossover", "loss")


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A question to the bootstrap law of one method.

    Attributes:
        kind: "alpha3", how much the second stage's exponent falls; "crossover", the second-stage tokens up to which
            reuse beats training from scratch; "loss", the loss at one place.
        base_tokens: D1 of the place, for "crossover" and "loss".
        tokens: D2 of the place, for "loss".
    """

    kind: str = "alpha3"
    base_tokens: float | None = None
    tokens: float | None = None

    def __post_init__(self) -> None:
        """Refuse a question that is not one."""
        if self.kind not in AIMS:
            raise StudyError(f"A study cannot aim at {self.kind!r}. {did_you_mean(self.kind, AIMS)}")
        needs = {"alpha3": (), "crossover": ("base_tokens",), "loss": ("base_tokens", "tokens")}[self.kind]
        for name in needs:
            value = getattr(self, name)
            if value is None or not 0 < value < np.inf:
                raise StudyError(f"The aim {self.kind!r} asks about one place: give {name}, above 0; it is {value!r}.")

    def __str__(self) -> str:
        """In words."""
        if self.kind == "alpha3":
            return "alpha3"
        base = f"D1 = {format_count(self.base_tokens or 0)}"
        if self.kind == "crossover":
            return f"the crossover with training from scratch at {base}"
        return f"the loss at {base}, D2 = {format_count(self.tokens or 0)}"

    @property
    def relative(self) -> bool:
        """Whether answers are logarithms, so that their errors are shares."""
        return self.kind != "alpha3"

    def ask(self, form: Form, theta: FloatArray) -> FloatArray:
        """The answers of laws: alpha3, ln of the crossover in tokens, or ln of the loss in nats per token.

        Args:
            form: the bootstrap form, alone or with a branch from scratch.
            theta: (laws, parameters).

        Returns:
            (laws,); NaN where a law has no crossover.

        Raises:
            StudyError: a crossover of a form without a branch from scratch.
        """
        if self.kind == "loss":
            place = {"base_tokens": self.base_tokens or 1.0, "tokens": self.tokens or 1.0}
            logs = {name: np.log([value]) for name, value in place.items()}
            return form.log_loss(logs, theta)[:, 0]
        at = {name: theta[:, index] for index, name in enumerate(form.parameters)}
        if self.kind == "alpha3":
            return at["alpha3"]
        if "A_scratch" not in at:
            raise StudyError(
                "A crossover needs rows from scratch: give the method a scratch: model, and a law with them."
            )
        # The floor is shared, so the curves cross where their power laws do (A and A_scratch are held as logs).
        u = float(np.log(self.base_tokens or 1.0))
        gain = at["alpha_scratch"] - at["alpha2"] + at["alpha3"] * u
        lead = at["A_scratch"] - at["A"] + at["alpha1"] * u
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((gain > 0) & (lead > 0), lead / gain, np.nan)
