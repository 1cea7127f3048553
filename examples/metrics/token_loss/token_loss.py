"""Token loss and bits per byte of a causal language model on texts, for `evaluate`.

    evaluate.load("examples/metrics/token_loss").compute(predictions=texts, model_id="out")

What it computes is `hf_bootstrap.training.evaluation`; nothing depends on batch size or padding.
"""

import math

import datasets
import evaluate
import torch

from hf_bootstrap.training.data import load_tokenizer
from hf_bootstrap.training.evaluation import evaluate as score

_DESCRIPTION = """Mean negative log likelihood of texts under a causal language model, in nats per token and in bits per
UTF-8 byte. Bits per byte compare between models with different tokenizers; nats per token do not."""

_INPUTS = """Args:
    predictions: texts. Each is scored after the model's end-of-text token, every token of it once.
    model_id: a folder or a Hub name.
    batch_size: windows at a time; it changes the speed, not the result.
    max_length: tokens of a window; by default as many as the model has positions, at most 2048. Windows overlap by one.
    dtype: of the weights, such as "float32"; by default the checkpoint's.
Returns:
    loss (nats per token), bits_per_byte, sum (nats), count (tokens), bytes.
Example:
    >>> evaluate.load("examples/metrics/token_loss").compute(predictions=["a text"], model_id="out")["bits_per_byte"]
"""

_CITATION = """@software{hf_bootstrap, title = {hf_bootstrap: reuse pretrained language models}}"""


class TokenLoss(evaluate.Metric):
    """Nats per token and bits per byte, from sums in double precision."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, model_id, batch_size=16, max_length=None, dtype="auto"):
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(model_id)
        model = AutoModelForCausalLM.from_pretrained(model_id, dtype=dtype)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        length = max_length or min(getattr(model.config.get_text_config(), "max_position_embeddings", 2048), 2048)
        windows = []
        for text in predictions:
            ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            windows += [{"input_ids": ids[i : i + length]} for i in range(0, len(ids) - 1, length - 1)]
        found = score(model, windows, batch_size=batch_size)
        size = sum(len(text.encode()) for text in predictions)
        bits = found.sum / math.log(2) / size
        return {"loss": found.loss, "bits_per_byte": bits, "sum": found.sum, "count": found.count, "bytes": size}
