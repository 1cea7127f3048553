"""A checkpoint run with one layer in memory, held against the same model loaded whole."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bootstrap.errors import UnsupportedModelError
from hf_bootstrap.growth.architecture import named_tensors
from hf_bootstrap.growth.blockwise import BlockwiseModel
from hf_bootstrap.growth.checkpoint import match_tensors, open_checkpoint
from hf_bootstrap.growth.gradients import reached_live
from hf_bootstrap.growth.hub_layout import hub_layout
from hf_bootstrap.growth.tensors import StoredTensors

from .zoo import tiny_model

# Plain, tied, experts in pieces, positional and per-layer constants, a state space, a norm of a sum, a decoder's half.
KINDS = ("llama", "gpt2", "mixtral", "gpt_oss", "gemma3_text", "qwen3_next", "mamba", "bert", "marian", "llama4_text")


def stored(model, folder):
    model.save_pretrained(folder)
    checkpoint, layout = open_checkpoint(folder), hub_layout(model)
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    match = match_tensors(checkpoint, layout.shapes, layout.ties, prefix=model.base_model_prefix, ignored=ignored)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    return StoredTensors(checkpoint=checkpoint, parts=layout.parts, entries=match.entries, shapes=shapes)


@pytest.mark.parametrize("model_type", KINDS)
def test_logits_and_gradients_are_those_of_the_model_loaded_whole(tmp_path, model_type):
    model = tiny_model(model_type, dtype=torch.float32)
    ids = torch.randint(3, 78, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    with stored(model, tmp_path) as tensors:
        blockwise = BlockwiseModel(model.config, tensors, torch.float32)
        assert torch.equal(blockwise.logits(ids), expected)
        assert blockwise.reached(ids) == reached_live(model, ids)
        assert torch.equal(blockwise.logits(ids), expected)  # running backward leaves nothing behind


def test_a_weight_that_is_not_in_its_block_shows_and_is_never_taken_for_a_number(tmp_path):
    model = tiny_model("llama", dtype=torch.float32)
    with stored(model, tmp_path) as tensors:
        blockwise = BlockwiseModel(model.config, tensors, torch.float32)
        head, norm = blockwise._model.lm_head, blockwise._model.model.norm
        norm.forward = lambda hidden: hidden + head.weight[0]  # reads what belongs to the head
        with pytest.raises(UnsupportedModelError, match="outside the block"):
            blockwise.logits(torch.tensor([[5, 6, 7]]))


def test_gradients_of_a_live_model_leave_it_as_it_was():
    model = tiny_model("llama", dtype=torch.float32)
    model.lm_head.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    reached = reached_live(model, torch.tensor([[5, 6, 7, 8]]))
    assert all(reached.values())
    assert not model.lm_head.weight.requires_grad
    assert bool((model.lm_head.weight.grad == 1).all())
    assert model.model.norm.weight.grad is None


CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from hf_bootstrap.growth.verify_files import verify_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = verify_checkpoint(sys.argv[1], sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"imports": before * 1024, "peak": after * 1024, "report": report.to_dict()}))
"""


@pytest.mark.slow
def test_verification_takes_the_memory_of_a_layer_and_not_of_the_model(tmp_path):
    """1.6 GB in float32 grown, 40 layers: one takes 40 MB, and the peak stays far below the model."""
    from hf_bootstrap import GrowthConfig, grow_checkpoint

    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_hidden_layers": 20}
    config = LlamaConfig(**sizes, vocab_size=1000, tie_word_embeddings=False, dtype="bfloat16")
    model = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    del model
    report = grow_checkpoint(tmp_path / "base", tmp_path / "grown", GrowthConfig(depth=2, depth_method="identity"))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "base"), str(tmp_path / "grown")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert found["report"]["passed"]
    assert found["report"]["gradient_reach"] is True
    assert found["report"]["logit_drift"] == 0
    assert 4 * report.n_params > 1.1e9
    assert found["peak"] - found["imports"] < 0.35e9
