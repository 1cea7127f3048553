"""A model given another tokenizer: rows of tokens that both know are kept, the others begin as the mean of the old.

Losses per token of two tokenizers do not compare; bits per byte do, and every point has them.
"""

from typing import Any

import torch

from ..errors import DataError

__all__ = ["change_vocabulary"]


def change_vocabulary(model: Any, old: Any, new: Any) -> int:
    """Fit a model's embedding and output head to another tokenizer, in place.

    Args:
        model: a transformers model whose rows are those of `old`; tied tables stay tied.
        old, new: tokenizers; a token is the same in both if it is spelt the same.

    Returns:
        How many tokens of `new` were not in `old`.

    Raises:
        DataError: the model has fewer rows than `old` has tokens.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models" (mean of the old rows: a new
    token takes about 1/V of the probability instead of an arbitrary share).
    """
    rows = model.get_input_embeddings().weight.shape[0]
    ids = old.get_vocab()
    known = max(ids.values()) + 1
    if known > rows:
        raise DataError(
            f"the model has {rows:,} rows and the tokenizer it is said to have {known:,}: that one is another model's. "
            "Name the model's own."
        )
    spelt = sorted(new.get_vocab().items(), key=lambda entry: entry[1])
    kept = [(place, ids[token]) for token, place in spelt if token in ids]
    tables = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None:
        tables += [head.weight] if head.weight is not tables[0] else []
        tables += [head.bias] if getattr(head, "bias", None) is not None else []
    with torch.no_grad():
        replaced = [_rows(table[:known], len(new), kept) for table in tables]
        model.resize_token_embeddings(len(new), mean_resizing=False)
        fresh = [model.get_input_embeddings().weight]
        head = model.get_output_embeddings()
        if head is not None:
            fresh += [head.weight] if head.weight is not fresh[0] else []
            fresh += [head.bias] if getattr(head, "bias", None) is not None else []
        for table, content in zip(fresh, replaced, strict=True):
            table.copy_(content)
    return len(new) - len(kept)


def _rows(table: torch.Tensor, size: int, kept: list[tuple[int, int]]) -> torch.Tensor:
    """(size, ...), rows of `table` at their new places, the mean of all where there is none."""
    fresh = table.float().mean(dim=0, keepdim=True).to(table.dtype).repeat(size, *[1] * (table.dim() - 1))
    places = torch.tensor(kept, dtype=torch.long).reshape(-1, 2).to(table.device)
    fresh[places[:, 0]] = table[places[:, 1]]
    return fresh
