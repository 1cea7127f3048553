"""One `RunSpec` becomes one trained, measured run: model, data, Trainer, points, done.

Everything a run needs stands in its folder's `run.json`, and everything it leaves behind goes there too.
A run that was killed goes on from its newest complete checkpoint.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from ..errors import TrainingError
from ..records import RunSpec
from ..store import RunFolder
from .attention import Attention
from .beginning import begin, carried_moments, start_folder
from .callback import ScalingCallback
from .checkpoints import Checkpoints
from .data import PackedBlocks
from .evaluation import from_first_process
from .facts import data_facts
from .schedule import Schedule
from .trainer import TokenTrainer

__all__ = ["run_one"]

# Seconds of training that may be lost to a kill without a word from the user; a run that is shorter pays nothing.
_PATIENCE = 300.0


def run_one(folder: RunFolder, report: Callable[[int], None] | None = None, *, save_every: int | None = None) -> None:
    """Carry out the run a folder's `run.json` asks for, and write `done.json` when it has ended well.

    Every process of a launcher calls it; they share the spec's batch.

    Args:
        folder: ``runs/<run_id>`` in a study; paths in the spec start from the study's folder.
        report: told the trained tokens after each step.
        save_every: trained tokens between checkpoints that only serve to go on after a kill: the newest is kept,
            and none when the run is done. 0 saves only what the spec asks for. By default a tenth of the run, where
            five minutes have passed since the last: a small run saves none. It changes no result.

    Raises:
        TrainingError: a missing start, moments that cannot be carried over exactly, too little text, another text than
            was asked for, a loss that is no number, or a batch that the processes cannot share equally.
    """
    spec = folder.spec()
    arguments = _arguments(folder, spec)  # first, for it brings the processes together
    train, evals = _training_blocks(folder, spec), _held_out_blocks(folder, spec)
    _check_text(spec, train, evals)
    set_seed(spec.seed)
    start = begin(folder, spec)
    newest = from_first_process(lambda: _resume_point(folder, spec))
    schedule = Schedule(tokens=spec.tokens, warmup_tokens=spec.warmup_tokens, decay_tokens=spec.decay_tokens)
    measure = ScalingCallback(
        evals,
        marks=spec.marks,
        points_file=folder.points_file,
        schedule=schedule,
        **_facts(spec, start.attention, start.n_params_base),
    )
    saving = _saving(spec, save_every)
    trainer = TokenTrainer(
        model=start.model,
        args=arguments,
        train_dataset=train,
        callbacks=[saving, measure, _Progress(spec, report)],
        schedule=schedule,
        batch_tokens=spec.batch_tokens,
        # A checkpoint that is resumed has moments of its own.
        moments=carried_moments(folder, spec, start.model) if newest is None else None,
    )
    trainer.train(resume_from_checkpoint=newest)
    if arguments.process_index == 0:
        folder.finish({"run_id": spec.run_id, "steps": trainer.state.global_step, "growth": start.growth})
        saving.thin_out(folder.path, newest=0)


def _saving(spec: RunSpec, save_every: int | None) -> Checkpoints:
    every = max(spec.tokens // 10, 1) if save_every is None else save_every
    return Checkpoints(
        {tokens // spec.batch_tokens for tokens in spec.checkpoints},
        every=-(-every // spec.batch_tokens),
        patience=_PATIENCE if save_every is None else 0.0,
    )


def _training_blocks(folder: RunFolder, spec: RunSpec) -> PackedBlocks:
    blocks = PackedBlocks(folder.study / spec.data, spec.sequence_length, offset=spec.data_offset)
    if len(blocks) * spec.sequence_length < spec.tokens:
        raise TrainingError(
            f"{spec.data} has {len(blocks) * spec.sequence_length:,} tokens from block {spec.data_offset} on, and the "
            f"run trains {spec.tokens:,}. Give more text or train less; text is never repeated in silence."
        )
    return blocks


def _held_out_blocks(folder: RunFolder, spec: RunSpec) -> dict[str, PackedBlocks]:
    return {
        name: PackedBlocks(folder.study / spec.eval_sets[name], spec.sequence_length, keep_tail=True)
        for name in sorted(spec.eval_sets, key=lambda name: name != spec.domain)  # the primary set first
    }


def _check_text(spec: RunSpec, train: PackedBlocks, evals: Mapping[str, PackedBlocks]) -> None:
    """Refuse token files that were packed again since the run was asked for: a study keeps their names."""
    found = data_facts(train, evals)["hashes"]
    files = {"data": spec.data, "tokenizer": spec.data, "eval_set": spec.eval_sets[spec.domain]}
    for what, asked in spec.hashes.items():
        if found.get(what, asked) != asked:
            raise TrainingError(
                f"run {spec.run_id} was asked for with {what} {asked[:12]}, but {files.get(what, what)} has "
                f"{found[what][:12]} now: the text was packed anew, and points would name a text they do not come "
                "from. Put the old text back, or leave this run alone: `study run` has runs of its own for the new one."
            )


def _resume_point(folder: RunFolder, spec: RunSpec) -> str | None:
    """Where to go on: the run's own newest complete checkpoint, else the trunk's it branches from."""
    own = folder.checkpoints()
    if own:
        return str(own[-1])
    return start_folder(folder, spec) if spec.resume else None


def _arguments(folder: RunFolder, spec: RunSpec) -> TrainingArguments:
    """Trainer settings of a run; logging and saving are driven by our callbacks."""
    arguments = TrainingArguments(
        output_dir=str(folder.path),
        max_steps=spec.tokens // spec.batch_tokens,
        learning_rate=spec.peak_lr,
        weight_decay=spec.weight_decay,
        adam_beta1=spec.adam_betas[0],
        adam_beta2=spec.adam_betas[1],
        max_grad_norm=spec.max_grad_norm,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        seed=spec.seed,
        logging_steps=100,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=spec.autocast == "bf16",
    )
    if spec.batch_size % arguments.world_size:
        raise TrainingError(
            f"run {spec.run_id} trains {spec.batch_size} blocks a step, which {arguments.world_size} processes cannot "
            "share equally. Start a number of processes that divides it."
        )
    arguments.per_device_train_batch_size = spec.batch_size // arguments.world_size
    return arguments


def _facts(spec: RunSpec, attention: Attention, n_params_base: int | None) -> dict[str, Any]:
    """The fields of a point that the spec knows."""
    return {
        "run_id": spec.run_id,
        "parent_run_id": spec.parent_run_id,
        "base_run_id": spec.base_run_id,
        "base_checkpoint_id": spec.base_checkpoint_id,
        "base_decayed": spec.base_decayed,
        "base_tokens": spec.base_tokens,
        "method": spec.method,
        "domain": spec.domain,
        "seed": spec.seed,
        "n_params_base": n_params_base,
        "rewarm_tokens": spec.warmup_tokens if spec.base_tokens else None,
        "optimizer_reset": spec.optimizer == "reset" if spec.base_tokens else None,
        "batch_tokens": spec.batch_tokens,
        "sequence_length": spec.sequence_length,
        "attention": attention.name,
        "attention_reason": attention.reason,
    }


class _Progress(TrainerCallback):
    """Tells how far the run is."""

    def __init__(self, spec: RunSpec, report: Callable[[int], None] | None) -> None:
        self._spec, self._report = spec, report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._report:
            self._report(state.global_step * self._spec.batch_tokens)
