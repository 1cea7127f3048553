"""`VerifyReport`: what a look at a grown model found, as text, JSON and a block for its card."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from .drift import Drift
from .gradients import GradientReach
from .plan import GrowthPlan

__all__ = ["VerifyReport", "conclude"]


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What verification found. `None` means not known; `notes` then says why.

    Attributes:
        keeps_function: whether the method promises the same logits up to rounding.
        passed: every promise that could be looked at was kept.
        structure: every tensor has the name, shape and dtype that was planned (where not, an error is raised).
        logit_drift: largest |difference of logits| / largest |logit of the source|.
        tolerance: the drift allowed where the function is promised; None where it is not.
        max_logit_difference: largest absolute difference of logits.
        kl: mean KL divergence from the source's next-token distribution to the grown one's, nats per token.
        loss_before, loss_after: mean next-token loss on the text, nats per token.
        n_tokens, text: how much text, and which.
        precision: dtype the logits were computed in.
        weight_error: largest |sum of shares - source| over all tensors, relative to the tensor's largest entry;
            0.0 means bit-exact. For depth growth alone it is the equality of every layer with its source.
        wrong: tensors whose shares do not add up beyond one rounding each, at most five names.
        finite: no NaN or infinity in any tensor or logit of the grown model.
        ties_kept: parameters shared in the source are shared in the grown model, and no others.
        copies_differ: in every widened tensor the copies of an input differ; None without width growth.
        gradient_reach: every tensor gets a gradient if the one it was made from does, tensors behind one that was set
            to zero by design aside; no_gradient: those that do not, at most five names.
        gradient_waits: how many tensors lie behind one that was set to zero, and get a gradient after the first step.
        hashes_match: every file has the SHA-256 that growth.json gives it; None for models in memory.
        tensors: how many were compared.
        notes: what limits these findings.
    """

    keeps_function: bool
    passed: bool
    structure: bool = True
    logit_drift: float | None = None
    tolerance: float | None = None
    max_logit_difference: float | None = None
    kl: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    n_tokens: int = 0
    text: str = "no text"
    precision: str | None = None
    weight_error: float
    wrong: tuple[str, ...] = ()
    finite: bool
    ties_kept: bool
    copies_differ: bool | None
    gradient_reach: bool | None = None
    no_gradient: tuple[str, ...] = ()
    gradient_waits: int = 0
    hashes_match: bool | None = None
    tensors: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"Verification {'passed' if self.passed else 'FAILED'}"]
        lines += [f"  {what:<15} {found}" for what, found in self._rows()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_card(self) -> str:
        """A block of Markdown for a model card."""
        lines = [
            "## Verification",
            "",
            "The grown model was held against its source before training. "
            + ("Every promise of the method was kept." if self.passed else "**It is not what its method promises.**"),
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {found.replace('|', '/')} |" for what, found in self._rows()),
        ]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not finite becomes None."""
        record = dataclasses.asdict(self)
        record |= {name: list(getattr(self, name)) for name in ("wrong", "no_gradient", "notes")}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}

    def _rows(self) -> list[tuple[str, str]]:
        """(what was looked at, what was found), for people."""
        rows = [("tensors", f"{self.tensors:,}, each with the name, shape and dtype that was planned")]
        if self.logit_drift is None:
            rows.append(("logits", "not compared"))
        else:
            allowed = "not promised" if self.tolerance is None else f"allowed {self.tolerance:.0e}"
            drift = f"drift {self.logit_drift:.2e} of the largest logit ({allowed}, {self.precision})"
            loss = f"{self.loss_before:.6f} -> {self.loss_after:.6f} nats/token on {self.text}"
            rows += [
                ("logits", drift),
                ("loss", loss),
                ("KL", f"{self.kl:.2e} nats/token over {self.n_tokens:,} tokens"),
            ]
        equal = "equal bit for bit" if self.weight_error == 0 else f"differ by {self.weight_error:.1e}"
        rows.append(("weights", f"{equal} once copies are added up"))
        rows += [("WRONG", f"{name}: copies do not add up to the source") for name in self.wrong]
        parted = {None: "no width growth", True: "yes", False: "no, and training will not part them"}
        rows.append(("copies differ", parted[self.copies_differ]))
        rows.append(("gradient", self._gradient()))
        rows += [("NO GRADIENT", f"{name}: it would never train") for name in self.no_gradient]
        rows.append(("ties kept", f"{'yes' if self.ties_kept else 'NO'};  finite {'yes' if self.finite else 'NO'}"))
        if self.hashes_match is not None:
            rows.append(("hashes", f"{'as' if self.hashes_match else 'OTHER than'} in growth.json"))
        return rows

    def _gradient(self) -> str:
        if self.gradient_reach is None:
            return "not known"
        waits = f"; {self.gradient_waits:,} wait for one that was set to zero" if self.gradient_waits else ""
        return ("reaches every tensor" if self.gradient_reach else "does NOT reach every tensor") + waits


def conclude(
    plan: GrowthPlan,
    *,
    tensors: int,
    weight_error: float,
    wrong: tuple[str, ...],
    copies_differ: bool | None,
    finite: bool,
    ties_kept: bool,
    drift: Drift | None = None,
    allowed: float | None = None,
    reach: GradientReach | None = None,
    hashes_match: bool | None = None,
    n_tokens: int = 0,
    text: str = "no text",
    precision: str | None = None,
    notes: tuple[str, ...] = (),
) -> VerifyReport:
    """Judge what was found by what the method promises.

    Args:
        plan: of the growth.
        drift, reach: None where they were not measured; `notes` says why.
        allowed: the drift that rounding explains, where the method keeps the function; None where it does not.
        tensors and all others: as in `VerifyReport`.
    """
    same_weights = not wrong if plan.growth.grows_width else weight_error == 0
    same_function = drift is None or allowed is None or drift.relative <= allowed
    finite = finite and (drift is None or drift.finite)
    trains = reach is None or not reach.missing
    adds_up = same_weights or not plan.growth.shares_add_up
    kept = (finite, ties_kept, same_function, adds_up, hashes_match is not False, trains)
    idle = 0 if reach is None else reach.idle
    return VerifyReport(
        keeps_function=plan.growth.keeps_function,
        passed=all(kept),
        tolerance=allowed,
        n_tokens=n_tokens,
        text=text,
        precision=precision,
        weight_error=weight_error,
        wrong=wrong[:5],
        finite=finite,
        ties_kept=ties_kept,
        copies_differ=copies_differ,
        hashes_match=hashes_match,
        tensors=tensors,
        **_of_logits(drift),
        **_of_gradients(reach),
        notes=(
            *notes,
            *(f"the function is kept nearly, not exactly: {why}" for why in plan.deviations),
            *((f"{idle:,} tensors get no gradient on this text in the source either",) if idle else ()),
        ),
    )


def _of_logits(drift: Drift | None) -> dict[str, Any]:
    """The report's fields on logits and loss."""
    if drift is None:
        return {}
    return {
        "logit_drift": drift.relative,
        "max_logit_difference": drift.absolute,
        "kl": drift.kl,
        "loss_before": drift.loss_before,
        "loss_after": drift.loss_after,
    }


def _of_gradients(reach: GradientReach | None) -> dict[str, Any]:
    """The report's fields on gradients."""
    if reach is None:
        return {}
    return {
        "gradient_reach": not reach.missing,
        "no_gradient": reach.missing[:5],
        "gradient_waits": reach.waiting,
    }
