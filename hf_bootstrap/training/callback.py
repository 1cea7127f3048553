"""`ScalingCallback`: makes a run of any Trainer worth something to a scaling law.

It counts trained tokens exactly, measures the loss on held-out text with `evaluation`, and appends one
`ScalingPoint` per mark to a file that survives a crash.
"""

import dataclasses
import platform
import time
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..errors import RecordError, TrainingError, did_you_mean
from ..records import ScalingPoint
from ..store import append_point, read_points
from .counting import FLOPS_FORMULA, ModelSize, TokenCounter, measure_size
from .evaluation import evaluate, from_first_process
from .schedule import Schedule, geometric_marks

__all__ = ["ScalingCallback"]

_COUNTS = ("tokens", "tokens_seen", "token_slots")
# Geometric marks begin here: before a few hundred steps a loss says more about warm-up than about data.
_FIRST_MARK = 100_000


class ScalingCallback(TrainerCallback):
    """Logs a scaling point at chosen token marks, and at the end.

    Ordinary Trainer logs get the same numbers (`tokens`, `tokens_seen`, `token_slots`, `eval_<set>_loss`),
    so any tracker shows them; counts are restored from them on resume.

    Args:
        eval_datasets: name -> held-out set (map-style, items with `input_ids`); the first is the primary one.
        base_tokens: D1, trained tokens behind the model at the start; 0 from scratch.
        method: how the second stage began: continue, stack, expand-split, scratch ...
        base_run_id: the trunk of the base model; runs with the same one are not independent.
        marks: "geometric", or trained tokens at which to measure.
        points_file: defaults to ``<output_dir>/points.jsonl``.
        schedule: tells the phase of a point; without one it is read off the learning rate, and the end of
            training is "end".
        eval_batch_size: speed only.
        **facts: any other field of `ScalingPoint` known beforehand (domain, seed, hashes ...).

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
        self.eval_batch_size = eval_batch_size
        self._facts = {"base_tokens": base_tokens, "method": method, "base_run_id": base_run_id, **facts}
        self._marks = geometric_marks(_FIRST_MARK) if marks == "geometric" else iter(sorted(map(int, marks)))
        self._next_mark: int | None = None
        self._counter = TokenCounter()
        self._size: ModelSize | None = None
        self._lr = self._peak = 0.0
        self._logged: set[int] = set()
        self._clock = 0.0
        self._tokens_at_start = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from where the checkpoint stood, and measure step 0 if a mark asks for it."""
        model = kwargs["model"]
        self._size = measure_size(model)
        self._facts.setdefault("run_id", None)
        self._open_points_file(args)
        before = self._counts_in(state)
        self._counter.attach(model, before)
        self._next_mark = next((mark for mark in self._marks if mark >= before[0]), None)
        self._clock, self._tokens_at_start = time.monotonic(), before[0]
        if self._next_mark == before[0]:
            self._measure(args, state, model)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate this step uses; afterwards the scheduler has already moved on."""
        self._lr = float(kwargs["optimizer"].param_groups[0]["lr"])
        self._peak = max(self._peak, self._lr)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure when a mark has been passed or the run is over."""
        if control.should_save:
            control.should_log = True  # the counts travel in the log history, which a checkpoint keeps
        is_last = state.global_step >= state.max_steps
        if is_last or (self._next_mark is not None and self._counter.totals()[0] >= self._next_mark):
            self._measure(args, state, kwargs["model"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the counts into the log line and into the history that resume reads."""
        counts = dict(zip(_COUNTS, self._counter.totals(), strict=True))
        if logs is not None:
            logs.update(counts)
        if state.log_history:
            state.log_history[-1].update(counts)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure a run that was stopped before its last step."""
        self._measure(args, state, kwargs["model"])
        self._counter.detach()

    def _measure(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> None:
        """Evaluate every set and append one point, once per step."""
        tokens, seen, slots = self._counter.totals()
        self._next_mark = next((mark for mark in self._marks if mark > tokens), None)
        if state.global_step in self._logged:
            return
        self._logged.add(state.global_step)
        started = time.monotonic()
        speed = (tokens - self._tokens_at_start) / (started - self._clock) if tokens > self._tokens_at_start else None
        results = {
            name: evaluate(model, data, batch_size=self.eval_batch_size) for name, data in self.eval_datasets.items()
        }
        self._clock += time.monotonic() - started
        primary = next(iter(results.values()))
        point = ScalingPoint(
            **{
                **self._run_facts(args, model, tokens),
                "phase": self._phase(state, tokens),
                "step": state.global_step,
                "tokens": tokens,
                "tokens_seen": seen,
                "token_slots": slots,
                "loss": primary.loss,
                "bits_per_byte": primary.bits_per_byte,
                "eval": {name: dataclasses.asdict(result) for name, result in results.items()},
                "lr": self._lr,
                "tokens_per_second": speed,
            }
        )
        if state.is_world_process_zero:
            append_point(self._file(args), point)
        state.log_history.append(
            {"step": state.global_step, "tokens": tokens, "tokens_seen": seen, "token_slots": slots}
            | {f"eval_{name}_loss": result.loss for name, result in results.items()}
        )

    def _run_facts(self, args: TrainingArguments, model: Any, tokens: int) -> dict[str, Any]:
        """What is the same for every point of the run, unless the caller knew better."""
        assert self._size is not None
        length = self._facts.get("sequence_length")
        per_token = self._size.flops_per_token(length) if length else None
        return {
            "seed": args.seed,
            "n_params": self._size.total,
            "n_params_non_embedding": self._size.non_embedding,
            "n_params_active": self._size.active,
            "flops": per_token * tokens if per_token is not None else None,
            "flops_formula": FLOPS_FORMULA if per_token is not None else None,
            "peak_lr": args.learning_rate,
            "schedule": str(self.schedule) if self.schedule else str(getattr(args.lr_scheduler_type, "value", "")),
            "attention": getattr(model.config, "_attn_implementation", None),
            "world_size": args.world_size,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "versions": _versions(),
            **self._facts,
        }

    def _phase(self, state: TrainerState, tokens: int) -> str:
        if self.schedule is not None:
            return self.schedule.phase(tokens)
        if state.global_step >= state.max_steps:
            return "end"
        if self._lr >= self._peak * (1 - 1e-9):
            return "stable" if state.global_step and self._peak else "warmup"
        return "decay"

    def _file(self, args: TrainingArguments) -> Path:
        return self.points_file or Path(str(args.output_dir)) / "points.jsonl"

    def _open_points_file(self, args: TrainingArguments) -> None:
        """Go on with the run the file holds; its points are not measured again."""
        path = self._file(args)
        # One process reads: another might already find the first new point and wait for nobody.
        written = from_first_process(lambda: read_points(path).points if path.exists() else [])
        new_id = from_first_process(lambda: f"{self._facts['method']}-{uuid.uuid4().hex[:10]}")
        runs = sorted({point.run_id for point in written})
        mine = self._facts["run_id"] or (runs[0] if runs else new_id)
        if runs and runs != [mine]:
            raise TrainingError(
                f"{path} holds points of {', '.join(runs)}, not of {mine}; one file is one run. Use another output_dir."
            )
        self._facts["run_id"] = mine
        self._logged = {point.step for point in written if point.step is not None}

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


def _versions() -> dict[str, str]:
    names = ("hf_bootstrap", "torch", "transformers", "tokenizers", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
