"""A Trainer whose rate is a `Schedule` of trained tokens, with rates of their own for tensors that grew.

Everything else is Trainer's own; points come from `ScalingCallback` and work without this class.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from ..errors import TrainingError
from .callback import ScalingCallback
from .schedule import Schedule

__all__ = ["TokenTrainer", "begin_with_moments", "scale_rates"]

_STATE = "trainer_state.json"


class TokenTrainer(Trainer):
    """A Trainer with the rate as a function of trained tokens.

    Args:
        schedule: the rate over tokens; None leaves it to Trainer's `lr_scheduler_type`.
        batch_tokens: trained tokens of one step, all processes.
        moments: by name of a parameter, the state Adam begins with; see `begin_with_moments`.
        rate_factors: by name of a parameter, the factor on its rate after a growth; see `scale_rates`.
    """

    def __init__(
        self,
        *args: Any,
        schedule: Schedule | None,
        batch_tokens: int,
        rate_factors: Mapping[str, float] | None = None,
        moments: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        callbacks = list(self.callback_handler.callbacks)
        self._measures = [callback for callback in callbacks if isinstance(callback, ScalingCallback)]
        for callback in self._measures:
            callback.lead(self)
            callback.rate_factors = rate_factors or {}
        self._schedule, self._batch_tokens = schedule, batch_tokens
        self._rate_factors, self._moments = rate_factors, moments

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, unless the checkpoint to resume is that of the last step: then only take its weights and state.

        Trainer would train one step too many: it asks whether the run is over after a step, not before the first.
        """
        source = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else None
        for callback in self._measures:
            callback.resumed_from = source
        if isinstance(resume_from_checkpoint, str) and self.args.max_steps > 0:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / _STATE))
            if state.global_step > self.args.max_steps:
                raise TrainingError(
                    f"{resume_from_checkpoint} stands at step {state.global_step:,}, and the run is to end at "
                    f"{self.args.max_steps:,}. Train longer, or go on from an earlier one in another output_dir."
                )
            if state.global_step == self.args.max_steps:
                for callback in self._measures:
                    callback.hold_to_request(self.args, state, self.model, self.train_dataset)
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, math.nan, {})
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The losses of `ScalingCallback`, measured at this step or now; Trainer's own would score the text again.

        A data set of the caller's is scored as Trainer does it, and so is any where there is no such callback.
        """
        if eval_dataset is not None or not self._measures:
            found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            return found
        results = self._measures[0].results_at(self.state.global_step, self.model)
        metrics = {f"{metric_key_prefix}_loss": next(iter(results.values())).loss}
        metrics |= {f"{metric_key_prefix}_{name}_loss": result.loss for name, result in results.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make Trainer's optimizer and apply the width rule to it."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self._rate_factors and self.model is not None:
            scale_rates(optimizer, self.model, self._rate_factors)
        if is_new and self._moments is not None and self.model is not None:
            begin_with_moments(optimizer, self.model, self._moments)
            self._moments = None  # the optimizer has them now; another copy would only take memory
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule; on resume only its position comes from the checkpoint, so a branch may decay."""
        schedule, batch = self._schedule, self._batch_tokens
        if schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        target: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(target, lambda step: schedule.factor(step * batch, batch))
        self._created_lr_scheduler = True
        return self.lr_scheduler


def begin_with_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, moments: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Let Adam go on from moments that it had before; its rates and decays stay those of this run.

    Args:
        optimizer: before its first step.
        model: whose parameters it trains.
        moments: by name of a parameter; one that is not named begins without.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state = {number: dict(moments[name]) for number, name in enumerate(order) if name in moments}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def scale_rates(optimizer: torch.optim.Optimizer, model: nn.Module, factors: Mapping[str, float]) -> None:
    """Give parameters f times their group's rate and 1/f times its weight decay, in groups of their own.

    After a width growth that copies, entries of a matrix that reads c copies are W/c while Adam's step per entry is not
    smaller, so the function would move c times as far. The rest keeps its rate.

    Args:
        optimizer: before its first step; its groups are changed in place.
        model: the grown model.
        factors: by name of a parameter, such as `growth.learning_rate.recorded_factors` gives them; 1 where left out.

    Source: muP, Yang et al. 2022, arXiv:2203.03466, table 8 (Adam); equivalence is tested to rounding.
    """
    factor_of = {id(parameter): factors.get(name, 1.0) for name, parameter in model.named_parameters()}
    for group in list(optimizer.param_groups):
        by_factor: dict[float, list[torch.Tensor]] = {1.0: []}  # the first group stays, for it tells the base's rate
        for parameter in group["params"]:
            by_factor.setdefault(factor_of[id(parameter)], []).append(parameter)
        group["params"] = by_factor.pop(1.0)
        for factor, parameters in sorted(by_factor.items()):
            scaled = {"lr": group["lr"] * factor, "weight_decay": group["weight_decay"] / factor}
            optimizer.add_param_group({**group, **scaled, "params": parameters})
