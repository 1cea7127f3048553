"""Ways to reuse a model, worked out from its config alone: sizes, FLOPs, memory, and the tokens a budget buys.

No weights are read. What loss they come to is the business of `outlook`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GrowthError, QuantityError, did_you_mean
from ..growth.config import WIDTH_METHODS, GrowthConfig
from ..growth.layer_maps import LAYER_MAPS
from ..units import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["Budget", "Candidate", "base_config", "make_budget", "make_candidates", "named_growth"]

_LARGEST_CONFIG = 10_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent on the second stage: a number of tokens, or of FLOPs.

    Attributes:
        tokens: the same for every candidate; None where FLOPs decide.
        flops: None where tokens decide.
        gpu_hours: as asked for; None where FLOPs or tokens were.
        flops_per_hour: of one device at the stated utilisation; None where no device was named.
        said: how it was counted.
    """

    tokens: int | None
    flops: float | None
    gpu_hours: float | None
    flops_per_hour: float | None
    said: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to reuse the base, or the reason why it cannot be.

    Attributes:
        name: as points carry it: continue, stack, expand-split ...
        growth: what growth; None for plain continued training.
        config: of the model that would be trained, as its file writes it.
        n_params, n_params_non_embedding: of that model; tied parameters once.
        flops_per_token: to train on one token at `sequence_length`; None where experts or the config hide it.
        tokens, flops, gpu_hours: what the budget comes to; None where it cannot be said.
        memory: bytes a rank needs for weights, gradients and Adam's moments, all of them shared among `ranks`.
        memory_whole: the same on one rank; activations come on top of both.
        fits: whether `memory` is within the limit; None where none was stated.
        keeps_function: whether training starts at the base's loss.
        problem: why this cannot be done; the numbers are then None.
    """

    name: str
    growth: GrowthConfig | None
    config: dict[str, Any] | None = None
    n_params: int | None = None
    n_params_non_embedding: int | None = None
    flops_per_token: float | None = None
    tokens: int | None = None
    flops: float | None = None
    gpu_hours: float | None = None
    memory: int | None = None
    memory_whole: int | None = None
    fits: bool | None = None
    keeps_function: bool | None = None
    problem: str | None = None


def make_budget(
    *,
    tokens: int | None = None,
    flops: float | None = None,
    gpu_hours: float | None = None,
    gpu: str | None = None,
    peak_flops: float | None = None,
    mfu: float = 0.4,
) -> Budget:
    """A budget from exactly one of tokens, FLOPs and device hours.

    Args:
        gpu: name of the device, such as "H100"; its peak is looked up.
        peak_flops: FLOP/s of one device, where the name is not known.
        mfu: share of the peak that training reaches.

    Raises:
        QuantityError: not exactly one is given, hours without a known device, or a share outside (0, 1].
    """
    given = {"tokens": tokens, "flops": flops, "gpu_hours": gpu_hours}
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) != 1:
        told = ", ".join(asked) or "none of them"
        raise QuantityError(f"A budget is one of tokens, FLOPs or GPU-hours; given are {told}. Give exactly one.")
    if not 0 < mfu <= 1:
        raise QuantityError(f"mfu is {mfu}; it is a share of the peak, above 0 and at most 1. Try 0.4.")
    if min(asked.values()) <= 0:
        raise QuantityError(f"The budget is {asked}; it must be more than 0.")
    if peak_flops is None and gpu is not None:
        from ..training.hardware import peak_flops as find_peak

        peak_flops = find_peak(gpu)
        if peak_flops is None:
            raise QuantityError(f"The peak of {gpu!r} is not known here; state its FLOP/s (peak_flops, --peak-flops).")
    hourly = None if peak_flops is None else peak_flops * mfu * 3600
    speed = f"{format_count(peak_flops or 0)} FLOP/s at {mfu:.0%} utilisation"
    if gpu_hours is not None:
        if hourly is None:
            raise QuantityError(
                "GPU-hours need a device: name it (gpu, --gpu H100) or state its FLOP/s (--peak-flops)."
            )
        said = f"{gpu_hours:,.0f} device hours of {speed}: {format_count(gpu_hours * hourly)} FLOPs"
        return Budget(tokens=None, flops=gpu_hours * hourly, gpu_hours=gpu_hours, flops_per_hour=hourly, said=said)
    at = "" if hourly is None else f"; hours at {speed}"
    said = f"{format_count(tokens)} tokens{at}" if tokens is not None else f"{format_count(flops or 0)} FLOPs{at}"
    return Budget(tokens=tokens, flops=flops, gpu_hours=None, flops_per_hour=hourly, said=said)


def named_growth(word: str) -> tuple[str, GrowthConfig | None]:
    """A method by its name on the command line: ``continue``, ``stack``, ``interpose:3``, ``split``, or a recipe file.

    Returns:
        The name that points carry, and the growth; None for continued training.

    Raises:
        GrowthError: no such method.
    """
    if word.endswith((".yaml", ".yml", ".json")):
        import yaml

        try:
            record = yaml.safe_load(Path(word).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise GrowthError(f"{word} cannot be read as a recipe: {error}. Check the path.") from error
        if not isinstance(record, dict):
            raise GrowthError(f"{word} holds no GrowthConfig; write lines such as `width: 2`.")
        return Path(word).stem, GrowthConfig.from_dict(record)
    name, _, factor = word.partition(":")
    if name == "continue" and not factor:
        return "continue", None
    method = name.removeprefix("expand-").replace("-", "_")
    by = int(factor) if factor.isdigit() else 2
    if (factor and not factor.isdigit()) or (method not in WIDTH_METHODS and method not in LAYER_MAPS):
        known = ["continue", *LAYER_MAPS, *WIDTH_METHODS]
        raise GrowthError(
            f"There is no method {word!r}. {did_you_mean(method, known)} A factor follows a colon: stack:3."
        )
    if method in WIDTH_METHODS:
        return f"expand-{method.replace('_', '-')}", GrowthConfig(width=by, width_method=method)
    return method, GrowthConfig(depth=by, depth_method=method)


def base_config(model: str, revision: str | None = None) -> "PreTrainedConfig":
    """The config of a folder or of a name on the Hub; of the Hub no other file is fetched.

    Raises:
        GrowthError: a revision of a folder.
        UnsupportedModelError: not a decoder-only language model that transformers knows.
        HubError, StoreError: it cannot be had.
    """
    from ..growth.source import open_config
    from ..hub.pull import is_repo_id, pull_files

    if not is_repo_id(model):
        if revision is not None:
            raise GrowthError(f"revision={revision!r} is for a name on the Hub, and {model!r} is a path; leave it out.")
        return open_config(Path(model))
    return open_config(pull_files(model, ("config.json",), revision=revision, largest=_LARGEST_CONFIG))


def make_candidates(
    config: "PreTrainedConfig",
    methods: Sequence[tuple[str, GrowthConfig | None]],
    budget: Budget,
    *,
    sequence_length: int | None = None,
    ranks: int = 1,
    memory_limit: int | None = None,
) -> tuple[Candidate, ...]:
    """Work out every method; one that this model cannot take says why instead of ending the rest.

    Args:
        sequence_length: of a block; by default 2048, or what the model takes at most.
        ranks: that share the training state.
        memory_limit: bytes of one rank.
    """
    return tuple(
        _candidate(config, name, growth, budget, sequence_length, ranks, memory_limit) for name, growth in methods
    )


def _candidate(
    config: "PreTrainedConfig",
    name: str,
    growth: GrowthConfig | None,
    budget: Budget,
    sequence_length: int | None,
    ranks: int,
    limit: int | None,
) -> Candidate:
    from ..growth.architecture import build_meta
    from ..growth.counting import measure_size
    from ..growth.forecast import training_memory
    from ..growth.plan import plan_growth

    try:
        target = config if growth is None else plan_growth(config, growth).target_config
        model = build_meta(target)
    except GrowthError as error:
        return Candidate(name=name, growth=growth, problem=str(error))
    size = measure_size(model)
    most = getattr(target.get_text_config(), "max_position_embeddings", None) or 2048
    per_token = size.flops_per_token(sequence_length or min(2048, most))
    tokens, flops = budget.tokens, budget.flops
    if per_token is not None:
        tokens = int(flops / per_token) if tokens is None and flops is not None else tokens
        flops = tokens * per_token if flops is None and tokens is not None else flops
    whole = training_memory(size.total, _bytes_of(target))
    memory = -(-whole // ranks)
    return Candidate(
        name=name,
        growth=growth,
        config=json.loads(target.to_json_string(use_diff=True)),
        n_params=size.total,
        n_params_non_embedding=size.non_embedding,
        flops_per_token=per_token,
        tokens=tokens,
        flops=flops,
        gpu_hours=None if flops is None or budget.flops_per_hour is None else flops / budget.flops_per_hour,
        memory=memory,
        memory_whole=whole,
        fits=None if limit is None else memory <= limit,
        keeps_function=growth is None or growth.keeps_function,
        problem=None
        if tokens is not None
        else "FLOPs of a token are not known here (experts, or no attention to count); state the budget in tokens",
    )


def _bytes_of(config: "PreTrainedConfig") -> float:
    import torch

    dtype = config.dtype if config.dtype is not None else getattr(config.get_text_config(), "dtype", None)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return float((dtype or torch.float32).itemsize)
