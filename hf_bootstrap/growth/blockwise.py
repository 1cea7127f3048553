"""`BlockwiseModel`: runs a checkpoint with one layer in memory at a time, forward and backward.

The model is built without storage and runs its own forward pass; each layer, table and head reads its weights from the
files when it is called and drops them afterwards. In the backward pass every block is run once more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .architecture import build_meta, find_ties
from .depth import find_layers
from .gradients import Watch, next_token_loss
from .tensors import StoredTensors

__all__ = ["BlockwiseModel"]


class BlockwiseModel:
    """A checkpoint that answers text in the memory of one layer.

    Args:
        config: of the model.
        tensors: its weights on disk, open.
        dtype: to compute in.
        rounded: dtype every weight is rounded to before, such as that of a grown checkpoint; None for none.
        model_class: for a class the Auto mapping does not know.

    Raises:
        UnsupportedModelError: the architecture names no layers, or cannot be set up without its weights.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        tensors: StoredTensors,
        dtype: torch.dtype,
        rounded: torch.dtype | None = None,
        model_class: type[PreTrainedModel] | None = None,
    ) -> None:
        self._model = build_meta(config, model_class).eval()
        self._tensors, self._dtype, self._rounded = tensors, dtype, rounded
        self._ties = find_ties(self._model)
        self._watch: Watch | None = None
        self._came: set[str] = set()
        self._again: set[str] = set()
        self._layers = find_layers(config, model_class)
        self._blocks = self._find_blocks()
        _fill_computed_buffers(self._model)
        _hold_places(self._model, dtype)
        inside = {id(module) for block in self._blocks.values() for module in block.modules()}
        outside = [(path, module) for path, module in self._model.named_modules() if id(module) not in inside]
        for path, module in outside:
            self._load(path, module)
        self._kept = [f"{path}.{leaf}" if path else leaf for path, module in outside for leaf in module._parameters]
        for path, block in self._blocks.items():
            block.forward = self._on_demand(path, block, block.forward)

    def logits(self, ids: Tensor) -> Tensor:
        """(sequences, tokens, vocabulary) of (sequences, tokens) token ids.

        Raises:
            UnsupportedModelError: the architecture touches weights outside the block they belong to.
        """
        with torch.no_grad():
            return self._run(ids)

    def reached(self, ids: Tensor) -> dict[str, bool]:
        """Which parameters get a gradient from the loss on some text, by name.

        Raises:
            UnsupportedModelError: the gradient cannot be followed block by block.
        """
        weights = dict(self._model.named_parameters())
        names = [name for name in weights if name not in self._ties and weights[name].is_floating_point()]
        self._watch, self._came, self._again = Watch(dict.fromkeys(names, False)), set(), set()
        kept = {name: weight for name, weight in self._model.named_parameters() if name in self._kept}
        handles = [self._watch.on(name, weight.requires_grad_(True)) for name, weight in kept.items()]
        try:
            loss = next_token_loss(self._run(ids), ids)
            if loss.requires_grad:
                loss.backward()
            # A table or pooler may go unused; a layer may not.
            if left := sorted(name for name in self._came - self._again if self._layers.split(name + ".")):
                raise UnsupportedModelError(
                    f"{self._model.config.model_type}: the backward pass does not come through {left[0]} when blocks "
                    "are run one at a time. Leave gradients out (--no-gradients)."
                )
            return dict(self._watch.reached)
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"{self._model.config.model_type} cannot be run backward: {error}. "
                "Leave gradients out (--no-gradients)."
            ) from error
        finally:
            self._watch = None
            for weight, handle in zip(kept.values(), handles, strict=True):
                handle.remove()
                weight.requires_grad_(False)

    def _run(self, ids: Tensor) -> Tensor:
        try:
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        except (RuntimeError, ValueError, TypeError) as error:  # a model that wants other inputs, or hides its weights
            raise UnsupportedModelError(
                f"{self._model.config.model_type} cannot be run block by block: {type(error).__name__}: "
                f"{str(error)[:200]} Load both models and call verify_growth on them."
            ) from error
        if not torch.isfinite(logits).all():
            raise UnsupportedModelError(
                f"{self._model.config.model_type} gives logits that are not finite when it is run block by block: it "
                "has weights outside the block they belong to, or cannot read this text"
            )
        return logits

    def _find_blocks(self) -> dict[str, nn.Module]:
        layers = self._layers
        paths = [f"{prefix}.{number}" for prefix in layers.prefixes for number in range(layers.count)]
        inside = tuple(path + "." for path in paths)
        for path, module in self._model.named_modules():
            # Linear classes of transformers and torch alike end so; what is small costs nothing to keep.
            if isinstance(module, nn.Embedding | nn.Linear) and not path.startswith(inside):
                paths.append(path)
        return {path: self._model.get_submodule(path) for path in paths}

    def _load(self, path: str, module: nn.Module, watch: Watch | None = None) -> list[tuple[dict[str, Any], str, Any]]:
        """Give one module its own weights; what it had comes back, for `_drop`."""
        dot, before = path + "." if path else "", []
        holders: list[tuple[dict[str, Any], bool]] = [(module._parameters, True), (module._buffers, False)]
        for holder, is_parameter in holders:
            for leaf, old in holder.items():
                name = self._ties.get(dot + leaf, dot + leaf)
                if old is None or name not in self._tensors.parts:
                    continue
                value = self._tensors.tensor(name)
                if value.is_floating_point():
                    value = value.to(self._rounded or value.dtype).to(self._dtype)
                before.append((holder, leaf, old))
                if not is_parameter:
                    holder[leaf] = value
                    continue
                parameter = nn.Parameter(value, requires_grad=watch is not None and value.is_floating_point())
                if watch is not None and parameter.requires_grad:
                    watch.on(name, parameter)
                holder[leaf] = parameter
        return before

    @contextmanager
    def _loaded(self, path: str, block: nn.Module, watch: Watch | None = None) -> Iterator[None]:
        before: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for inner, module in block.named_modules():
                before += self._load(f"{path}.{inner}" if inner else path, module, watch)
            yield
        finally:
            for holder, leaf, old in before:
                holder[leaf] = old

    def _on_demand(self, path: str, block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if self._watch is None:
                with self._loaded(path, block):
                    return forward(*arguments, **options)
            if torch.is_grad_enabled():
                self._came.add(path)
            leaves, shape = tree_flatten((arguments, options))

            def again(flag: Tensor, *inputs: Any) -> Any:
                inner, named = tree_unflatten(inputs, shape)
                backward = torch.is_grad_enabled()
                if backward:
                    self._again.add(path)
                with self._loaded(path, block, self._watch if backward else None):
                    answer = forward(*inner, **named)
                # A table that is computed and not trained answers without a gradient; checkpoint wants one.
                return answer + 0 * flag if backward and _is_constant(answer) else answer

            # The first argument makes autograd come back here even where the block reads nothing but token ids.
            first = torch.zeros((), requires_grad=True)
            return checkpoint(again, first, *leaves, use_reentrant=True, preserve_rng_state=False)

        return run


def _is_constant(answer: object) -> bool:
    return isinstance(answer, Tensor) and answer.is_floating_point() and not answer.requires_grad


def _hold_places(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weights that are not there are NaN of the right shape, dtype and device, in the memory of one number.

    On the meta device they would answer for a device that is not theirs; and what is computed from NaN shows.
    """
    for module in model.modules():
        for leaf, weight in module._parameters.items():
            if weight is not None:
                floating = weight.is_floating_point()
                place = torch.full((), torch.nan if floating else 0, dtype=dtype if floating else weight.dtype)
                module._parameters[leaf] = nn.Parameter(place.expand(weight.shape), requires_grad=False)


def _fill_computed_buffers(model: PreTrainedModel) -> None:
    """Buffers that no checkpoint holds (rotary frequencies) are computed as `from_pretrained` does."""
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    for name, buffer in list(model.named_non_persistent_buffers()):
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()
