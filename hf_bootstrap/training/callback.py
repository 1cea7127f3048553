"""`ScalingCallback`: makes a run of any Trainer worth something to a scaling law.

It counts trained tokens exactly, measures the loss on held-out text with `evaluation`, and appends one
`ScalingPoint` per mark to a file that survives a crash.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..errors import RecordError, TrainingError, did_you_mean
from ..growth.counting import ModelSize, measure_size
from ..growth.learning_rate import factors_words
from ..records import ScalingPoint
from ..store import append_point, read_points
from .checks import check_fit
from .counting import TokenCounter
from .evaluation import Evaluation, evaluate, from_first_process
from .facts import data_facts, model_facts
from .forecast import Forecaster, has_stable_phase
from .hardware import peak_flops
from .marks import Marks
from .request import settle_run
from .schedule import Schedule

__all__ = ["ScalingCallback"]

_COUNTS = ("tokens", "tokens_seen", "token_slots")
# A forecast needs points; without one, each is an evaluation that buys little.
_RATIO, _RATIO_WITH_FORECAST = 2.0, 2.0**0.5


class ScalingCallback(TrainerCallback):
    """Logs a scaling point at chosen token marks, at each evaluation of the Trainer, and at the end.

    Ordinary Trainer logs get the same numbers (`tokens`, `tokens_seen`, `token_slots`, `eval_<set>_loss`, `flops`,
    `tokens_per_second` ...), and counts are restored from them on resume. Trackers that `report_to` names see them if
    `lead` was called. Before the first step it refuses data that does not fit the model, and a points
    file of another run.

    Args:
        eval_datasets: name -> held-out set (map-style, items with `input_ids`); the first is the primary one.
        base_tokens: D1, trained tokens behind the model at the start; 0 from scratch.
        method: how the second stage began: continue, stack, expand-split, scratch ...
        base_run_id: the trunk of the base model; runs with the same one are not independent.
        marks: "geometric", or trained tokens at which to measure.
        forecast: fit the run's own points as they come, and log the loss expected at its end with an interval
            (`forecast_loss`, `forecast_low`, `forecast_high`) and the tokens beyond which doubling them gains less than
            0.01 nats (`forecast_worth_until`); silent until there are enough points, and at most 1% of the run's time.
        points_file: defaults to ``<output_dir>/points.jsonl``.
        schedule: tells the phase of a point; without one it is read off the learning rate, and the end of
            training is "end".
        eval_batch_size: speed only.
        **facts: any other field of `ScalingPoint` known beforehand (domain, seed, hashes ...); what packed data, the
            model and the arguments say of themselves need not be given.

    Raises:
        RecordError: a fact that is not a field of a point.
    """

    def __init__(
        self,
        eval_datasets: Mapping[str, Any],
        *,
        base_tokens: int,
        method: str = "continue",
        base_run_id: str | None = None,
        marks: str | Iterable[int] = "geometric",
        forecast: bool = False,
        points_file: str | Path | None = None,
        schedule: Schedule | None = None,
        eval_batch_size: int = 16,
        **facts: Any,
    ) -> None:
        known = {field.name for field in dataclasses.fields(ScalingPoint)}
        for name in facts:
            if name not in known:
                raise RecordError(f"a scaling point has no field {name!r}. {did_you_mean(name, known)}")
        if not eval_datasets:
            raise RecordError("a callback without eval_datasets measures nothing. Give at least one held-out set.")
        self.eval_datasets = dict(eval_datasets)
        self.points_file = Path(points_file) if points_file else None
        self.schedule = schedule
        # What Trainer tells no callback, and TokenTrainer does.
        self.resumed_from: Path | None = None
        self.rate_factors: Mapping[str, float] = {}
        self._latest: tuple[int, dict[str, Evaluation]] | None = None
        self.eval_batch_size = eval_batch_size
        self._facts = {"base_tokens": base_tokens, "method": method, "base_run_id": base_run_id, **facts}
        self._marks = Marks(marks, _RATIO_WITH_FORECAST if forecast else _RATIO)
        self._wants_forecast = forecast
        self._forecaster: Forecaster | None = None
        self._counter = TokenCounter()
        self._size: ModelSize | None = None
        self._lr = self._peak = 0.0
        self._logged: set[int] = set()
        self._clock = 0.0
        self._tokens_at_start = 0
        self._record: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Spent on everything but evaluation since training began: counting, writing, forecasts."""
        return self._seconds + self._counter.seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that everything fits, count from where the checkpoint stood, measure step 0 if a mark asks for it."""
        model = kwargs["model"]
        loader = kwargs.get("train_dataloader")
        train = getattr(loader, "dataset", None)
        if hasattr(train, "point_facts"):
            check_fit(model, "training", train)
        for name, data in self.eval_datasets.items():
            check_fit(model, name, data)
        before = self._counts_in(state)
        self.hold_to_request(args, state, model, train)
        self._counter.attach(model, before)
        self._marks.begin(before[0], state.global_step)
        self._clock, self._tokens_at_start, self._seconds = time.monotonic(), before[0], 0.0
        self._latest = None
        if self._marks.next == before[0]:
            self._measure(args, state, model)
            self._note(state)

    def hold_to_request(self, args: TrainingArguments, state: TrainerState, model: Any, train: Any) -> None:
        """Refuse a run that is asked for otherwise than before, and open its points file."""
        self._size = measure_size(model)
        self._gather_facts(args, model, train)
        self._open_points_file(args, state)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate this step uses; afterwards the scheduler has already moved on."""
        began = time.perf_counter()
        self._lr = float(kwargs["optimizer"].param_groups[0]["lr"])
        # What the scheduler starts from: after a resume in the fall, the rate of the first step is not the peak.
        self._peak = max(self._peak, self._lr, float(kwargs["optimizer"].param_groups[0].get("initial_lr", 0.0)))
        self._seconds += time.perf_counter() - began

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure when a mark has been passed, when Trainer evaluates, or when the run is over."""
        began = time.perf_counter()
        if control.should_save:
            control.should_log = True  # the counts travel in the log history, which a checkpoint keeps
        # Trainer's own evaluation of this step was decided before: callbacks given by the user come last.
        is_due = state.global_step >= state.max_steps or control.should_evaluate
        is_due = self._marks.is_reached(state.global_step, self._counter.totals) or is_due
        self._seconds += time.perf_counter() - began
        if is_due:
            self._measure(args, state, kwargs["model"])
            control.should_log = True  # the numbers go out with the log of this step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure where Trainer evaluates after each pass over the text."""
        if control.should_evaluate:
            self._measure(args, state, kwargs["model"])
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the counts into the log line and into the history that resume reads; stop when the run has diverged."""
        for name in ("grad_norm", "loss"):  # Trainer hides a loss that is no number, but not a gradient
            value = (logs or {}).get(name)
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(
                    f"the run diverged: {name} is {value} at step {state.global_step:,}. Its peak learning rate is "
                    f"{args.learning_rate}; lower it, or look at the data there. Points before this step are kept."
                )
        began = time.perf_counter()
        numbers = {**self._pending, **dict(zip(_COUNTS, self._counter.totals(), strict=True))}
        self._pending = {}
        if logs is not None:
            logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)
        self._seconds += time.perf_counter() - began

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure a run that was stopped before its last step."""
        self._measure(args, state, kwargs["model"])
        self._note(state)
        self._counter.detach()

    def _note(self, state: TrainerState) -> None:
        """Put a measurement no log will carry into the history; it must not wait for the log of a later step."""
        if self._pending:
            state.log_history.append({"step": state.global_step, **self._pending})
        self._pending = {}

    def lead(self, trainer: Any) -> None:
        """Put this callback before the trackers of a Trainer, which otherwise are told of each log first."""
        others = [callback for callback in trainer.callback_handler.callbacks if callback is not self]
        first = next((i for i, callback in enumerate(others) if isinstance(callback, DefaultFlowCallback)), -1) + 1
        trainer.callback_handler.callbacks = [*others[:first], self, *others[first:]]

    def _measure(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> None:
        """Evaluate every set and append one point, once per step."""
        began = time.perf_counter()
        counts = self._counter.totals()
        self._marks.pass_by(counts[0], state.global_step)
        # A Trainer that resumes the checkpoint of its last step trains one more: that is none of the run's points.
        if state.global_step in self._logged or state.global_step > state.max_steps > 0:
            return
        self._logged.add(state.global_step)
        started = time.monotonic()
        elapsed = started - self._clock
        results = self.results_at(state.global_step, model)
        evaluating = time.monotonic() - started
        self._clock += evaluating
        if not math.isfinite(next(iter(results.values())).sum):
            raise TrainingError(
                f"the run diverged: the held-out loss at step {state.global_step:,} is not a number. Its peak learning "
                f"rate is {args.learning_rate}; lower it. Points before this step are kept."
            )
        point = self._point(args, state, counts, results, elapsed)
        if state.is_world_process_zero:
            append_point(self._file(args), point)
        self._pending = self._log_entry(state, point, results, elapsed)
        self._seconds += time.perf_counter() - began - evaluating

    def results_at(self, step: int, model: Any) -> dict[str, Evaluation]:
        """Every set scored by the model as it is; what was scored at this step is not scored again."""
        if self._latest is None or self._latest[0] != step:
            size = self.eval_batch_size
            found = {name: evaluate(model, data, batch_size=size) for name, data in self.eval_datasets.items()}
            self._latest = (step, found)
        return self._latest[1]

    def _point(
        self,
        args: TrainingArguments,
        state: TrainerState,
        counts: tuple[int, int, int],
        results: Mapping[str, Evaluation],
        elapsed: float,
    ) -> ScalingPoint:
        assert self._size is not None
        tokens, primary = counts[0], next(iter(results.values()))
        length = self._record.get("sequence_length")
        per_token = self._size.flops_per_token(length) if length else None
        speed = (tokens - self._tokens_at_start) / elapsed if tokens > self._tokens_at_start and elapsed > 0 else None
        peak = peak_flops()
        share = per_token * speed / peak / self._record["world_size"] if per_token and speed and peak else None
        batch = tokens // state.global_step if state.global_step and tokens % state.global_step == 0 else None
        measured = {
            "phase": self._phase(args, state, tokens),
            "step": state.global_step,
            **dict(zip(_COUNTS, counts, strict=True)),
            "flops": per_token * tokens if per_token is not None else None,
            "loss": primary.loss,
            "bits_per_byte": primary.bits_per_byte,
            "eval": {name: dataclasses.asdict(result) for name, result in results.items()},
            "lr": self._lr,
            "tokens_per_second": speed,
            "mfu": share,
        }
        return ScalingPoint(**{"batch_tokens": batch, **self._record, **measured})

    def _log_entry(
        self, state: TrainerState, point: ScalingPoint, results: Mapping[str, Evaluation], elapsed: float
    ) -> dict[str, Any]:
        """What trackers see of a point, with the forecast if there is one."""
        entry: dict[str, Any] = {name: getattr(point, name) for name in _COUNTS}
        entry |= {f"eval_{name}_loss": result.loss for name, result in results.items()}
        for name in ("bits_per_byte", "flops", "tokens_per_second", "mfu"):
            if getattr(point, name) is not None:
                entry[name] = getattr(point, name)
        if self._forecaster is not None and point.phase == "stable" and state.is_world_process_zero:
            self._forecaster.add(point.tokens, point.loss)
            found = self._forecaster.look(elapsed)
            if found is not None:
                entry |= {"forecast_loss": found.loss, "forecast_low": found.low, "forecast_high": found.high}
                entry |= {"forecast_worth_until": found.worth_until} if found.worth_until is not None else {}
        return entry

    def _gather_facts(self, args: TrainingArguments, model: Any, train: Any) -> None:
        """What is the same for every point of the run; the caller's word goes before what is found out."""
        assert self._size is not None
        found = data_facts(train, self.eval_datasets)
        given = {name: value for name, value in self._facts.items() if value is not None}
        length = given.get("sequence_length", found.get("sequence_length"))
        record = {**model_facts(args, model, self._size, length), **found, **given}
        record["hashes"] = {**found.get("hashes", {}), **given.get("hashes", {})}
        if self.schedule is not None:
            record["schedule"] = str(self.schedule)
            if record["base_tokens"] and "rewarm_tokens" not in given:
                record["rewarm_tokens"] = self.schedule.warmup_tokens
        record["schedule"] += factors_words(self.rate_factors)
        if hasattr(train, "point_facts"):
            # Every block trains as many tokens, so the batch is known before the first step.
            blocks = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            record.setdefault("batch_tokens", blocks * train.point_facts["sequence_length"])
            if record["base_tokens"]:
                record.setdefault("replay_ratio", 0.0)
        self._record = record

    def _phase(self, args: TrainingArguments, state: TrainerState, tokens: int) -> str:
        if self.schedule is not None:
            return self.schedule.phase(tokens)
        if state.global_step >= state.max_steps:
            return "end"
        if self._lr >= self._peak * (1 - 1e-9):
            return "stable" if state.global_step and self._peak else "warmup"
        return "warmup" if state.global_step <= args.get_warmup_steps(state.max_steps) else "decay"

    def _file(self, args: TrainingArguments) -> Path:
        return self.points_file or Path(str(args.output_dir)) / "points.jsonl"

    def _open_points_file(self, args: TrainingArguments, state: TrainerState) -> None:
        """Go on with the run the file holds; its points are not measured again."""
        path = self._file(args)
        # One process reads: another might already find the first new point and wait for nobody.
        written = from_first_process(lambda: read_points(path).points if path.exists() else [])
        is_resumed = state.global_step > 0
        self._record |= settle_run(
            path, written, self._record, args, is_resumed=is_resumed, resumed_from=self.resumed_from
        )
        self._logged = {point.step for point in written if point.step is not None}
        self._open_forecast(args, written)

    def _open_forecast(self, args: TrainingArguments, written: Iterable[ScalingPoint]) -> None:
        if not self._wants_forecast:
            return
        if not has_stable_phase(args, self.schedule):
            warnings.warn(
                f"a forecast is fitted to points at a constant rate, and with the schedule {self._record['schedule']} "
                "there is none: it stays silent. Take lr_scheduler_type warmup_stable_decay or constant_with_warmup, "
                "or give TokenTrainer and ScalingCallback a Schedule.",
                stacklevel=2,
            )
        steps, batch = args.max_steps, self._record.get("batch_tokens")
        end = self.schedule.tokens if self.schedule else steps * batch if steps > 0 and batch else None
        if end is None:
            raise TrainingError(
                "a forecast needs to know where the run ends. Give ScalingCallback a schedule, or batch_tokens "
                "together with max_steps."
            )
        self._forecaster = Forecaster(end, from_scratch=not self._record["base_tokens"])
        for point in written:
            if point.phase == "stable":
                self._forecaster.add(point.tokens, point.loss)

    @staticmethod
    def _counts_in(state: TrainerState) -> tuple[int, int, int]:
        """The counts a checkpoint's history holds for the step it stands at."""
        if state.global_step == 0:
            return (0, 0, 0)
        for entry in reversed(state.log_history):
            if entry.get("step") == state.global_step and all(name in entry for name in _COUNTS):
                return tuple(int(entry[name]) for name in _COUNTS)  # type: ignore[return-value]
        raise TrainingError(
            f"the checkpoint at step {state.global_step} was saved without ScalingCallback, so the tokens behind it "
            "are not known. Resume from one saved with it, or start a new run with base_tokens set."
        )
