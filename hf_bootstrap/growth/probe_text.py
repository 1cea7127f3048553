"""The text a checkpoint is compared on: given, built in, or random tokens where there is no tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig

from ..errors import GrowthError

__all__ = ["BUILT_IN", "as_ids", "probe_ids", "random_ids"]

# A window: a report needs a number for the drift, and attention takes the square of the length.
_LONGEST = 512
_RANDOM = (2, 64)  # sequences, tokens

# A few plain sentences of several kinds, so that a comparison says something without a file at hand.
BUILT_IN = """The baker opened the shop before sunrise. By seven, a line of people stood outside, and the smell of warm
bread filled the street. "Two loaves, please," said the first of them, and counted her coins.
Water boils at 100 degrees Celsius at sea level; on a mountain of 3,000 metres it boils at about 90.
Der Zug nach Hamburg fährt um 8:45 Uhr ab. Le chat dort sur la chaise. 今天天气很好。
def area(width: float, height: float) -> float:
    return width * height
To solve 3x + 5 = 20, subtract 5 from both sides and divide by 3: x = 5.
"""


def probe_ids(folder: Path, config: PreTrainedConfig, text: str | Sequence[int] | None) -> tuple[Tensor, str]:
    """Token ids, (sequences, tokens), and where they come from.

    Args:
        folder: of the source, for its tokenizer; none of its code is run.
        config: of the source.
        text: text, of which the first 512 tokens are taken; token ids; or None for the built-in text, and random tokens
            where the folder has no tokenizer.

    Raises:
        GrowthError: text is given and there is no tokenizer, or there are fewer than two tokens.
    """
    if text is not None and not isinstance(text, str):
        return as_ids(text, config), "the given text"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ids = list(tokenizer(BUILT_IN if text is None else text)["input_ids"])
    except Exception as error:  # a tokenizer's files may be wrong in any way they like
        if text is None:
            return random_ids(config), "random tokens"
        raise GrowthError(f"{folder} has no tokenizer that reads text: {error}. Give token ids, or no text.") from error
    longest = min(_LONGEST, getattr(config.get_text_config(), "max_position_embeddings", None) or _LONGEST)
    if text is None and (len(ids) < 2 or max(ids) >= config.get_text_config().vocab_size):
        return random_ids(config), "random tokens"
    return as_ids(ids[:longest], config), "the built-in text" if text is None else "the given text"


def random_ids(config: PreTrainedConfig) -> Tensor:
    """2 x 64 random tokens, the same ones every time."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or _RANDOM[1]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(text.vocab_size, (_RANDOM[0], min(_RANDOM[1], longest)), generator=generator)


def as_ids(text_ids: Tensor | Sequence[int], config: PreTrainedConfig) -> Tensor:
    """(sequences, tokens) of (tokens,) or (sequences, tokens).

    Raises:
        GrowthError: another shape, fewer than two tokens, or a token the model has not.
    """
    ids = torch.as_tensor(text_ids, dtype=torch.long)
    ids = ids.reshape(1, -1) if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.shape[1] < 2:
        raise GrowthError(f"text_ids has shape {list(ids.shape)}; give (tokens,) or (sequences, tokens), two or more.")
    vocabulary = config.get_text_config().vocab_size
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise GrowthError(
            f"The source model cannot read the text: its tokens go from {int(ids.min())} to {int(ids.max())}, and the "
            f"model has {vocabulary:,}. Use the model's own tokenizer."
        )
    return ids
