"""`ScalingLaw`: fit a law to points, read it, ask it, keep it.

The work is done by the other modules of this room: `points` reads, `fitting` fits, `resampling` and `checks`
say how sure it is, `prediction` and `decisions` answer, `figures` draw, `law_folder` writes it down.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from ..errors import LawError, NotFittedError, did_you_mean
from . import budgets, decisions
from .arguments import check_level
from .crossover import crossover
from .decisions import Decision
from .fitted import FittedLaw, fit_law, known_law
from .forms import find_form
from .points import Points
from .prediction import Prediction, exponent, predict
from .profiles import Profile, profile
from .report import number, summary_text
from .saturation import NULLS, SaturationTest, saturation_test
from .terms import Form

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScalingLaw"]

_SETTINGS = ("form", "objective", "delta", "resamples")


class ScalingLaw:
    """A scaling law of one or two training stages.

    Rows from scratch (base_tokens 0) join the fit: forms that cover them take them as they are, the others get
    a branch of their own with the same floor, and with it an answer to `crossover`.

    Args:
        form: a name in `FORMS`, or a `Form`.
        objective: "huber", robust against outliers, or "lsq", least squares of log loss.
        delta: where Huber's loss turns from squares to absolute values, in nats of log loss; 1e-3 is what the
            field uses, and close to absolute values.
        resamples: refits of the bootstrap behind the intervals.

    Attributes (after `fit`):
        params_: name -> value, in raw tokens and natural logs; None where these points cannot tell it apart.
        intervals_: name -> (low, high) at 95%, or None where it is not known; `interval` gives other levels.
        stderr_: name -> half of the 68.3% interval, or None where it is not known.
        n_points_: rows fitted.
        checks_: the numbered warnings of `summary`.
        points_: the rows, where they are at hand.
        loss_unit_: of every loss: nats per token, or bits per byte where it was fitted to those.
    """

    _tested: SaturationTest | None  # kept for `summary`: it takes seconds

    def __init__(
        self, form: str | Form = "bootstrap", objective: str = "huber", delta: float = 1e-3, resamples: int = 1000
    ) -> None:
        self.form = form
        self.objective = objective
        self.delta = delta
        self.resamples = resamples

    def fit(
        self,
        points: Any,
        where: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        *,
        n_params_are: str | None = None,
    ) -> Self:
        """Fit the law; see `Points.read` for what points can be and which rows are used.

        Raises:
            PointError: points no law can use.
            FitError: points that cannot support this form.
            LawError: no form has this name.
        """
        rows = Points.read(points, where=where, columns=columns, n_params_are=n_params_are)
        law, rows = fit_law(
            find_form(self.form), rows, objective=self.objective, delta=self.delta, resamples=self.resamples
        )
        return self._learn(law, rows)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor was given, in scikit-learn's manner.

        Args:
            deep: makes no difference here; a form is a value, not an estimator.
        """
        del deep
        return {name: getattr(self, name) for name in _SETTINGS}

    def set_params(self, **params: Any) -> Self:
        """Change what the constructor was given; a law that was fitted keeps what it learnt until the next `fit`.

        Raises:
            LawError: the constructor takes no argument of this name; then nothing is changed.
        """
        for name in params:
            if name not in _SETTINGS:
                raise LawError(f"ScalingLaw has no setting {name!r}. {did_you_mean(name, _SETTINGS)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    @classmethod
    def from_params(cls, form: str | Form = "bootstrap", /, **params: float) -> Self:
        """A law with published parameters: predictions without intervals.

        Example:
            ``ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)``
        """
        return cls(form)._learn(known_law(find_form(form), params), None)

    @property
    def fitted(self) -> FittedLaw:
        """The frozen law behind this face.

        Raises:
            NotFittedError: `fit` was not called.
        """
        law = self.__dict__.get("_law")
        if law is None:
            raise NotFittedError("This ScalingLaw has no parameters yet. Call fit(points), or from_pretrained(folder).")
        assert isinstance(law, FittedLaw)
        return law

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float] | None:
        """The interval (low, high) of a parameter; None where it is not known, and `checks_` say why."""
        check_level(level)
        if name not in self.fitted.form.parameters:
            raise LawError(f"There is no parameter {name!r}. {did_you_mean(name, self.fitted.form.parameters)}")
        return self.fitted.interval(name, level)

    def predict(
        self,
        *,
        base_tokens: npt.ArrayLike | None = None,
        tokens: npt.ArrayLike | None = None,
        n_params: npt.ArrayLike | None = None,
        unique_tokens: npt.ArrayLike | None = None,
        mixture_ratio: npt.ArrayLike | None = None,
        level: float = 0.95,
        extrapolate: bool = False,
    ) -> Prediction:
        """The loss in the law's unit, with its interval and how far it lies beyond the data.

        Args:
            base_tokens: D1; 0 asks for training from scratch.
            tokens: D2, or the tokens of a one-stage law.
            n_params: N, for forms that read it.
            unique_tokens: U, the tokens of one epoch, for `data_constrained`.
            mixture_ratio: r, the share of the domain in the training tokens, for `d_cpt`.
            level: nominal coverage of the interval of the law's curve (a new run scatters around it).
            extrapolate: answer also beyond two decades, and where the formula says loss rises with tokens.

        Raises:
            PredictionError: an argument is missing or impossible, or the answer would rest on nothing.
        """
        asked = {
            "base_tokens": base_tokens,
            "tokens": tokens,
            "n_params": n_params,
            "unique_tokens": unique_tokens,
            "mixture_ratio": mixture_ratio,
        }
        return predict(self.fitted, asked, level=level, extrapolate=extrapolate)

    def exponent(self, base_tokens: npt.ArrayLike, level: float = 0.95, *, extrapolate: bool = False) -> Prediction:
        """How fast the second stage lowers the loss: alpha2 - alpha3 ln D1 of the bootstrap law.

        Args:
            base_tokens: D1; 0 asks for training from scratch.
            level: nominal coverage of the interval.
            extrapolate: answer also beyond two decades, and where the exponent is not positive.

        Raises:
            LawError: the form has no exponent that is the same for all D2.
            PredictionError: the points cannot tell it there, or the answer would rest on nothing.
        """
        return exponent(self.fitted, base_tokens, level, extrapolate=extrapolate)

    def crossover(
        self,
        scratch: "ScalingLaw | None" = None,
        *,
        base_tokens: float,
        n_params: float | None = None,
        n_params_base: float | None = None,
        count_base_cost: bool = False,
        tokens: float | None = None,
    ) -> Decision:
        """Up to how many second-stage tokens reuse beats training from scratch; see `crossover.crossover`."""
        return crossover(
            self.fitted,
            scratch=None if scratch is None else scratch.fitted,
            base_tokens=base_tokens,
            n_params=n_params,
            n_params_base=n_params_base,
            count_base_cost=count_base_cost,
            tokens=tokens,
        )

    def best_split(
        self,
        *,
        flops: float,
        n_params_base: float,
        n_params: float | None = None,
        unique_tokens: float | None = None,
        mixture_ratio: float | None = None,
    ) -> Decision:
        """How many of a budget's tokens to give the base; see `budgets.best_split`."""
        columns = {"unique_tokens": unique_tokens, "mixture_ratio": mixture_ratio}
        return budgets.best_split(self.fitted, flops=flops, n_params_base=n_params_base, n_params=n_params, **columns)

    def tokens_for(
        self,
        *,
        loss: float,
        base_tokens: float | None = None,
        n_params: float | None = None,
        unique_tokens: float | None = None,
        mixture_ratio: float | None = None,
    ) -> Decision:
        """The tokens after which the law is at `loss`; see `decisions.tokens_for`."""
        columns = {"unique_tokens": unique_tokens, "mixture_ratio": mixture_ratio}
        return decisions.tokens_for(self.fitted, loss=loss, base_tokens=base_tokens, n_params=n_params, **columns)

    def compute_optimal(
        self,
        *,
        flops: float,
        base_tokens: float | None = None,
        unique_tokens: float | None = None,
        mixture_ratio: float | None = None,
    ) -> Decision:
        """The model size that gets the least loss from a budget; see `budgets.compute_optimal`."""
        columns = {"unique_tokens": unique_tokens, "mixture_ratio": mixture_ratio}
        return budgets.compute_optimal(self.fitted, flops=flops, base_tokens=base_tokens, **columns)

    def saturation(self) -> Decision:
        """The base tokens at which the second stage's exponent reaches 0; see `decisions.saturation`."""
        return decisions.saturation(self.fitted)

    def saturation_test(self, nulls: Sequence[str | Form] = NULLS, n: int = 200, **options: Any) -> SaturationTest:
        """Whether alpha3 > 0 means saturation, against laws without it; see `saturation.saturation_test`.

        Args:
            nulls: forms without saturation.
            n: draws for each.
            **options: `steps` of the profile of alpha3 and E, `seed` of the draws.
        """
        return saturation_test(self, nulls, n, **options)

    def profile(
        self, *names: str, values: Mapping[str, Sequence[float]] | None = None, steps: int | None = None
    ) -> Profile:
        """How well the law fits with one or two parameters held, by default alpha3 and E; see `profiles.profile`."""
        return profile(self, *names, values=values, steps=steps)

    def summary(self, nulls: bool | None = None) -> str:
        """The law as a page of text: parameters with intervals, what alpha3 means, and numbered warnings.

        Args:
            nulls: whether to hold alpha3 against laws without saturation (`saturation_test`, seconds, once for each
                fit; longer for "bootstrap_n"). By default where the form is "bootstrap" and its points are at hand.

        Raises:
            LawError: `nulls` is true and it cannot be done.
        """
        law = self.fitted
        if nulls is None:
            nulls = law.form.name == "bootstrap" and "alpha3" not in law.unidentified and self.points_ is not None
        if nulls and self._tested is None:
            self._tested = self.saturation_test()
        return summary_text(law, self._tested if nulls else None)

    def plot(self, kind: str | None = None) -> "Figure":
        """The law and its points as a figure.

        Args:
            kind: "three_panels" (the founding paper's: slices, exponents, factors), "loss_curves" (loss against tokens,
                with bands), "residuals" (against every column and the prediction), or "held_out" (the largest runs
                predicted from the others). By default the three panels where the form has exponents at fixed D1,
                else the curves.

        Raises:
            LawError: no such kind, no points at hand to draw, or nothing of this kind in this form.
        """
        from .figures import draw

        return draw(self, kind)

    def _repr_html_(self) -> str:
        """The summary for a notebook: escaped text, no scripts."""
        text = self.summary() if "_law" in self.__dict__ else repr(self)
        return f"<pre>{html.escape(text)}</pre>"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `law.json`, points, card (`README.md`), figures and planner into a folder, which changes as one.

        Raises:
            LawError: the form has no name.
            StoreError: the folder cannot be written.
        """
        from .law_folder import write_folder

        write_folder(self, folder)

    def to_html(self) -> str:
        """The planner: one page without requests, with the law inside, that answers questions; see `planner`."""
        from .planner import planner_page

        return planner_page(self)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        points: bool = True,
        compare: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Put law, points, card, figures and planner into a model repository, in one commit, and return its address.

        Args:
            repo_id: ``user/name``; made where it does not exist.
            points: whether the points it was fitted to go with it.
            compare: whether the card compares forms on these points, which takes up to a minute.
            private: of a new repository; True is refused where it exists and is public.
            revision: a branch, made where it does not exist.
            create_pr: open a pull request instead.
            metadata: of the card: ``license``, ``datasets``, ``base_model``, ``language``, further ``tags``.

        Raises:
            HubError: the Hub refuses or stays away; nothing is changed there then.
        """
        from .publish import push_law

        asked = {"private": private, "revision": revision, "create_pr": create_pr, "metadata": metadata}
        return push_law(self, repo_id, points=points, compare=compare, **asked).url  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> Self:
        """Read a law that `save_pretrained` or `push_to_hub` wrote; its predictions are equal to the last bit.

        Args:
            folder: a folder, or the name of a repository (``user/name``).
            revision: of the repository: a branch, tag, commit or ``refs/pr/N``.

        Raises:
            LawFileError: the law, or the points beside it, are missing, changed or of another version.
            HubError: the repository cannot be had, or holds no law.
        """
        from .law_folder import read_folder
        from .publish import found_folder

        law, points = read_folder(found_folder(folder, revision))
        form = getattr(law.form, "inner", law.form)
        objective, delta = ("huber", 1e-3) if law.objective == "given" else (law.objective, law.delta)
        return cls(form.name, objective, delta)._learn(law, points)

    def __repr__(self) -> str:
        if "_law" not in self.__dict__:
            return f"ScalingLaw(form={self.form!r}, objective={self.objective!r}, delta={self.delta!r})"
        told = ", ".join(f"{name}={number(value)}" for name, value in self.params_.items())
        return f"<ScalingLaw {self.fitted.form.name}: {told}; {self.n_points_} points>"

    def _learn(self, law: FittedLaw, points: Points | None) -> Self:
        self._law = law
        self._tested = None
        self.points_: Points | None = points
        self.params_ = law.known_params()
        self.n_points_ = law.n_points
        self.checks_ = law.warnings
        self.loss_unit_ = law.loss_unit
        self.intervals_ = {name: law.interval(name) for name in self.params_}
        inner = {name: law.interval(name, 0.683) for name in self.params_}
        self.stderr_ = {name: None if found is None else (found[1] - found[0]) / 2 for name, found in inner.items()}
        return self
