"""What a run was asked to do, kept beside its points from the first step on.

Points tell it too, but the first of them may be hours away, and they do not know in what precision was computed.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.training_args import TrainingArguments

from ..records import SCHEMA, ScalingPoint
from ..store import read_json, write_json
from .evaluation import from_first_process
from .facts import CONSTANT, check_same_run, check_unchanged

__all__ = ["settle_run", "weights_digest"]

_SUFFIX = ".request.json"
# Of each tensor so many values are hashed: training changes all of them, and gigabytes would take minutes.
_VALUES = 1024
# What a branch shares with the run it leaves: its data position is a step times the batch, its rate that of the state.
_OF_A_STAGE = ("base_tokens", "n_params", "batch_tokens", "sequence_length", "packing", "replay_ratio", "peak_lr")


def settle_run(
    points_file: Path,
    written: Sequence[ScalingPoint],
    record: Mapping[str, Any],
    args: TrainingArguments,
    *,
    is_resumed: bool,
    resumed_from: Path | None,
) -> dict[str, Any]:
    """Hold a run to what was asked of it before, or keep what is asked now; every process calls it.

    Args:
        points_file: the request is kept beside it.
        written: the points it holds.
        record: what the run's points will say.
        is_resumed: whether training goes on from a checkpoint; `resumed_from`: from which, where that is known.

    Returns:
        `run_id`, and `parent_run_id` where the run branches from another one's checkpoint.

    Raises:
        TrainingError: the folder is that of another run, or this one is asked for otherwise than before.
    """
    kept = from_first_process(lambda: _kept(points_file, is_begun=is_resumed or bool(written)))
    new_id = from_first_process(lambda: f"{record['method']}-{uuid.uuid4().hex[:10]}")
    known = written[0].run_id if written else (kept or {}).get("run_id")
    parent_id = record.get("parent_run_id") or (kept or {}).get("parent_run_id")
    request = _request({**record, "run_id": record.get("run_id") or known or new_id, "parent_run_id": parent_id}, args)
    check_same_run(points_file, written, request["run_id"], record)
    if kept is not None:
        check_unchanged(points_file, kept, request)
    elif (
        parent_id is None and resumed_from is not None and resumed_from.parent.resolve() != points_file.parent.resolve()
    ):
        request["parent_run_id"] = _parent(resumed_from, points_file.name, request)
    if kept is None and args.process_index == 0:
        write_json(points_file.with_suffix(_SUFFIX), request)
    return {"run_id": request["run_id"], "parent_run_id": request["parent_run_id"]}


def _request(record: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    """What may not change while one points file grows."""
    facts = {name: record.get(name) for name in ("run_id", "parent_run_id", *CONSTANT, "hashes")}
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {"schema": SCHEMA, **facts, "batch_rows": rows, "autocast": args.mixed_precision}


def _kept(points_file: Path, *, is_begun: bool) -> dict[str, Any] | None:
    """The request a file was begun with; None where there is none, or nothing came of it: no point, no checkpoint."""
    path = points_file.with_suffix(_SUFFIX)
    is_begun = is_begun or any(points_file.parent.glob("checkpoint-*"))
    return read_json(path) if is_begun and path.exists() else None


def _parent(checkpoint: Path, name: str, request: Mapping[str, Any]) -> str | None:
    """The run that a checkpoint belongs to, if it kept its request; refuses to go on otherwise than it trained."""
    parent = from_first_process(lambda: _kept(checkpoint.parent / name, is_begun=True))
    if parent is None:
        return None
    shared = {field: parent.get(field) for field in _OF_A_STAGE}
    data = {"data": parent["hashes"]["data"]} if "data" in parent["hashes"] else {}
    check_unchanged(checkpoint, {**shared, "hashes": data}, request)
    return str(parent["run_id"])


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and the first 1,024 values of every tensor: tells one base from another, cheaply."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().reshape(-1)[:_VALUES].cpu().contiguous()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
