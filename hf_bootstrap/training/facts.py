"""What a point says of its run besides the measurement: model, data, machine.

A file holds points of one run; here is also what makes a run another one.
"""

import functools
import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.training_args import TrainingArguments

from .. import __version__
from ..errors import TrainingError
from ..growth.counting import ModelSize
from ..records import ScalingPoint

__all__ = ["CONSTANT", "check_same_run", "check_unchanged", "data_facts", "model_facts", "versions"]

# What may not change while one file of points grows: a law takes them for one run.
CONSTANT = (
    "base_tokens", "method", "seed", "n_params", "batch_tokens", "sequence_length", "packing", "replay_ratio",
    "peak_lr", "schedule", "dtype",
)  # fmt: skip


def data_facts(train: Any, evals: Mapping[str, Any]) -> dict[str, Any]:
    """What the data sets know of themselves: block length, packing, replay ratio, hashes.

    Args:
        train: a data set; one without `point_facts` says nothing.
        evals: the evaluation sets, the primary one first.
    """
    facts: dict[str, Any] = dict(getattr(train, "point_facts", {}))
    hashes = dict(facts.get("hashes", {}))
    for place, (name, data) in enumerate(evals.items()):
        known = getattr(data, "point_facts", None)
        if known is not None:
            hashes[f"eval_set/{name}" if place else "eval_set"] = known["hashes"]["data"]
    return {**facts, "hashes": hashes} if hashes else facts


def model_facts(args: TrainingArguments, model: Any, size: ModelSize, sequence_length: int | None) -> dict[str, Any]:
    """What the model, the arguments and the machine say."""
    per_token = size.flops_per_token(sequence_length) if sequence_length else None
    return {
        "seed": args.seed,
        "n_params": size.total,
        "n_params_non_embedding": size.non_embedding,
        "n_params_active": size.active,
        "flops_formula": size.flops_formula if per_token is not None else None,
        "peak_lr": args.learning_rate,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "attention": getattr(model.config, "_attn_implementation", None),
        "world_size": args.world_size,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "autocast": args.mixed_precision,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that decide a loss; that of this one ends in a digest of its code."""
    names = ("torch", "transformers", "tokenizers", "accelerate")
    own = f"{__version__}+{_code_digest()}"
    return {"python": platform.python_version(), "hf_bootstrap": own, **{name: version(name) for name in names}}


@functools.cache
def _code_digest() -> str:
    """Eight hexadecimal digits of the SHA-256 of the package's sources, names included."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:8]


def check_same_run(path: Path, written: Sequence[ScalingPoint], run_id: str, facts: Mapping[str, Any]) -> None:
    """Refuse to add to a file that holds points of another run, or of this one trained otherwise.

    Raises:
        TrainingError: naming the file, what differs, and both values.
    """
    if others := sorted({point.run_id for point in written} - {run_id}):
        raise TrainingError(
            f"{path} holds points of {', '.join(others)}, not of {run_id}; one file is one run. Use another output_dir."
        )
    for point in written[-1:]:
        check_unchanged(path, point.to_dict(), facts)


def check_unchanged(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is asked for otherwise; what is not known on either side is passed over.

    Args:
        path: the file or checkpoint that is gone on with.
        before, now: fields of a point or of a request.

    Raises:
        TrainingError: naming what differs, and both values.
    """
    for name in ("run_id", *CONSTANT, "batch_rows", "autocast", "hashes"):
        old, new = before.get(name), now.get(name)
        if name == "hashes":
            pairs = [(f"hash of {key}", (old or {}).get(key), value) for key, value in (new or {}).items()]
        else:
            pairs = [(name, old, new)]
        for what, was, value in pairs:
            if was is not None and value is not None and was != value:
                raise TrainingError(
                    f"{path} belongs to a run with {what} {was}, and it is {value} now; together they would be no run "
                    "at all. Restore what was changed, or use another output_dir."
                )
