"""What a run begins with: weights, growth, adapter, and Adam's moments where they are carried over.

All of it follows from the run's spec and the files of its study; how it is then trained is the business of `loop`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..errors import BootstrapError, TrainingError
from ..growth.bootstrap import bootstrap_from_pretrained
from ..growth.config import GrowthConfig
from ..growth.lora import ADAPTER_CONFIG
from ..growth.optimizer_state import grown_moments
from ..hub.refusals import showable, without_secrets
from ..records import RunSpec
from ..store import COMPLETE, RunFolder
from .attention import Attention, choose_attention, give_attention
from .freezing import add_lora

__all__ = ["Beginning", "begin", "carried_moments", "start_folder"]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A model as its run begins; a branch's trained weights come from the checkpoint it resumes.

    Attributes:
        model: to be trained; with a LoRA, PEFT's wrapper of it.
        n_params_base: parameters of the base, before growth and without adapter; None from scratch.
        attention: what the spec asks for, else the choice of this machine for this model.
        growth: what growth was proven to do, for `done.json`; None where this run grew nothing.
    """

    model: Any
    attention: Attention
    n_params_base: int | None
    growth: dict[str, Any] | None


def begin(folder: RunFolder, spec: RunSpec) -> Beginning:
    """Make the model of a run.

    Raises:
        TrainingError: a start that cannot be loaded, was not written to its end or is an adapter without its base, an
            attention implementation the model has not, or a branch that would train otherwise than what it resumes.
    """
    dtype = getattr(torch, spec.dtype)
    if spec.model is not None:
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**spec.model), **_asked(spec)).to(dtype)
        except (ImportError, TypeError, ValueError) as error:
            raise TrainingError(
                f"run {spec.run_id} cannot be begun: {error} Mend the model or the attention."
            ) from error
        return Beginning(model=model, attention=_attend(model, spec), n_params_base=None, growth=None)
    root = _root_of(folder, spec)
    # A LoRA's checkpoint holds the adapter alone, so a branch too makes the weights under it as the stage began.
    origin = root if spec.lora is not None else spec
    model, n_params_base, growth = _load(folder, origin)
    attention = _attend(model, spec)
    if growth is None and _growth_of(root).grows:
        n_params_base = model.config.hf_bootstrap["growth"][-1]["source"]["n_params"]
    if spec.lora is not None:
        model = add_lora(model, **spec.lora)
    return Beginning(
        model=model,
        attention=attention,
        n_params_base=n_params_base if spec.base_tokens or growth is not None else None,
        growth=None if growth is None or spec.resume else {"n_params_base": n_params_base, **growth},
    )


def _attend(model: PreTrainedModel, spec: RunSpec) -> Attention:
    """Give the model its attention implementation."""
    dtype = torch.bfloat16 if spec.autocast == "bf16" else getattr(torch, spec.dtype)
    try:
        return give_attention(model, spec.attention, dtype=dtype)
    except TrainingError as error:
        raise TrainingError(f"run {spec.run_id}: {error}") from error


def _asked(spec: RunSpec) -> dict[str, str]:
    """What loading is told: some classes take an implementation then and never again."""
    return {} if spec.attention is None else {"attn_implementation": choose_attention(spec.attention).name}


def carried_moments(folder: RunFolder, spec: RunSpec, model: PreTrainedModel) -> dict[str, dict[str, Tensor]] | None:
    """Adam's state by parameter of the model, from the checkpoint the run starts from; None where it starts without.

    Raises:
        TrainingError: there is no state, or the growth changes it in a way no exact rule covers.
    """
    if spec.optimizer != "grow":
        return None
    start = start_folder(folder, spec)
    where = f"run {spec.run_id} carries over Adam's moments from {start} (optimizer: grow)"
    if not os.path.isdir(start):
        raise TrainingError(
            f"{where}, which is no folder here. Download it with its optimizer.pt, or leave optimizer out."
        )
    try:
        moments, report = grown_moments(start, model, _growth_of(spec))
    except BootstrapError as error:
        raise TrainingError(f"{where}: {error} In a run that is to leave optimizer out.") from error
    if report.approximate:
        raise TrainingError(
            f"{where}, but for {report.approximate} of {len(moments)} tensors they would not be Adam's own: "
            f"{'; '.join(report.notes)}. Leave optimizer out, or grow by a method with an exact rule (clone, identity)."
        )
    return moments


def start_folder(folder: RunFolder, spec: RunSpec) -> str:
    """`start` as a path: a checkpoint of this study, else what transformers makes of the name.

    Raises:
        TrainingError: a checkpoint of this study that was not written to its end.
    """
    if os.path.isabs(str(spec.start)):  # trained elsewhere: nobody there marks a checkpoint complete
        return str(spec.start)
    inside = folder.study / "runs" / str(spec.start)
    if inside.is_dir():
        if not (inside / COMPLETE).exists():
            raise TrainingError(f"{inside} was not written to its end. Run {spec.start} again before {spec.run_id}.")
        return str(inside)
    return str(spec.start)


def _named(start: str) -> tuple[str, str]:
    """A name on the Hub and the revision behind its @; a folder as it is."""
    name, _, revision = start.partition("@")
    return (start, "main") if os.path.isdir(start) or os.path.isabs(start) or not revision else (name, revision)


def _root_of(folder: RunFolder, spec: RunSpec) -> RunSpec:
    """The run that began the stage a branch belongs to; itself where it resumes nothing."""
    root = spec
    while root.resume:
        root = RunFolder(folder.study / "runs" / str(root.parent_run_id)).spec()
        for name in ("lora", "optimizer", "dtype", "autocast"):
            mine, its = getattr(spec, name), getattr(root, name)
            if mine != its:
                raise TrainingError(
                    f"run {spec.run_id} has {name} {mine!r}, but resumes {root.run_id} with {name} {its!r}: a branch "
                    "goes on as its stage began. Repeat it."
                )
    return root


def _load(folder: RunFolder, spec: RunSpec) -> tuple[PreTrainedModel, int, Mapping[str, Any] | None]:
    """The weights of `start`, grown as the spec says; parameters before growth, and what growth was proven to do."""
    start = start_folder(folder, spec)
    if (Path(start) / ADAPTER_CONFIG).exists():
        raise TrainingError(
            f"{start} holds an adapter without the weights it belongs to, so no run can start from it. Merge it first: "
            "hf_bootstrap.merge_adapter(base, adapter, target)."
        )
    name, revision = _named(start)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=getattr(torch, spec.dtype), **_asked(spec)
        )
    except (OSError, ImportError, ValueError) as error:
        raise TrainingError(
            f"run {spec.run_id} starts from {start}, which cannot be loaded: {without_secrets(str(error))} Check the "
            "path, or the name and whether this machine is online; the run then goes on."
        ) from showable(error)
    n_params_base = model.num_parameters()
    if not _growth_of(spec).grows:
        return model, n_params_base, None
    grown = bootstrap_from_pretrained(model, _growth_of(spec))
    return grown, n_params_base, grown.config.hf_bootstrap["growth"][-1]


def _growth_of(spec: RunSpec) -> GrowthConfig:
    return GrowthConfig.from_dict(spec.growth or {})
