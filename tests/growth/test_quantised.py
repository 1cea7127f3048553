"""Quantised checkpoints grow in depth, and in nothing else: dequantising the grown is growing the dequantised."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, GptOssConfig, Mxfp4Config

from hf_bootstrap import GrowthConfig, bootstrap_from_pretrained, grow_checkpoint
from hf_bootstrap.errors import GrowthError, UnsupportedModelError, VerificationError
from hf_bootstrap.growth.adapters import grow_adapter
from hf_bootstrap.growth.verify_files import verify_checkpoint

from .models import tiny

STACK, INTERPOSE = GrowthConfig(depth=2), GrowthConfig(depth=2, depth_method="interpose")
SOME = GrowthConfig(layer_map=(0, 1, 1, 2, 0))
GROWTHS = {"stack": STACK, "interpose": INTERPOSE, "layer map": SOME}


def rewrite(folder, tensors, settings):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, "quantization_config": settings}))
    return folder


def quantised(folder, encode, settings, skip="no layer"):
    """A tiny Llama whose projections are replaced by what `encode` makes of them."""
    tiny("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=96).save_pretrained(folder)
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight") and skip not in name:
            tensors |= {name.removesuffix("weight") + leaf: value for leaf, value in encode(weight).items()}
        else:
            tensors[name] = weight
    return rewrite(folder, tensors, settings)


def fp8(weight):
    """As DeepSeek-V3 and Qwen3 have it: 8-bit floats, and a scale for every block of 32 x 32."""
    high, wide = (-(-n // 32) for n in weight.shape)
    blocks = torch.nn.functional.pad(weight.float(), (0, 32 * wide - weight.shape[1], 0, 32 * high - weight.shape[0]))
    blocks = blocks.reshape(high, 32, wide, 32)
    scales = blocks.abs().amax((1, 3)) / 448 + 1e-9
    codes = (blocks / scales[:, None, :, None]).reshape(32 * high, 32 * wide)[: weight.shape[0], : weight.shape[1]]
    return {"weight": codes.to(torch.float8_e4m3fn).contiguous(), "weight_scale_inv": scales}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
FP8_SKIPS = {**FP8, "modules_to_not_convert": ["lm_head", "model.layers.1"]}


def fp8_llama(folder):
    return quantised(folder, fp8, FP8_SKIPS, skip="layers.1.")


def mxfp4_gpt_oss(folder):
    """Experts as gpt-oss has them: 4-bit floats, 32 to a block, each block with a power of two. Any codes will do."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = GptOssConfig(**sizes, head_dim=16, num_hidden_layers=3, num_local_experts=4, vocab_size=97,
                          layer_types=["full_attention"] * 3, dtype="bfloat16")  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tensors = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, read, write = value.shape
            codes = torch.randint(0, 256, (experts, write, read // 32, 16), dtype=torch.uint8)
            tensors |= {f"{name}_blocks": codes}
            tensors |= {f"{name}_scales": torch.randint(118, 124, codes.shape[:3], dtype=torch.uint8)}
        else:
            tensors[name] = value
    skips = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return rewrite(folder, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": skips})


def loaded(folder, settings):
    model, found = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    return model


# transformers dequantises both on a CPU with code of its own: the oracle.
@pytest.mark.parametrize("growth", GROWTHS.values(), ids=GROWTHS)
@pytest.mark.parametrize(
    ("make", "settings"),
    [(fp8_llama, FineGrainedFP8Config(dequantize=True)), (mxfp4_gpt_oss, Mxfp4Config(dequantize=True))],
    ids=["fp8", "mxfp4"],
)
def test_dequantising_the_grown_is_growing_the_dequantised(tmp_path, make, settings, growth):
    base = make(tmp_path / "base")
    report = grow_checkpoint(base, tmp_path / "grown", growth, max_shard_size="40kB")
    ours = loaded(tmp_path / "grown", settings)
    theirs = bootstrap_from_pretrained(loaded(base, settings), growth, verify=False)
    ours, expected = ours.state_dict(), theirs.state_dict()
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[name], expected[name]) for name in ours)
    assert report.n_params == theirs.num_parameters()
    assert any("byte for byte" in note for note in report.notes)


def gptq(weight):
    """4-bit numbers, eight in one int32, with scales and zero points for groups of 32 inputs, as GPTQ has them."""
    groups = weight.float().T.reshape(-1, 32, weight.shape[0])
    scales = groups.abs().amax(1) / 7 + 1e-6
    codes = ((groups / scales[:, None]).round() + 8).clamp(0, 15).reshape(-1, weight.shape[0]).long()
    packed = (codes.reshape(-1, 8, codes.shape[1]) << (4 * torch.arange(8))[:, None]).sum(1)
    zeros = torch.full((len(scales), weight.shape[0] // 8), 0x77777777, dtype=torch.int32)
    order = (torch.arange(weight.shape[1]) // 32).int()
    return {"qweight": packed.to(torch.int32), "qzeros": zeros, "scales": scales.half(), "g_idx": order}


def dequantised(tensors):
    """Plain weights of a GPTQ checkpoint."""
    plain = {name: value for name, value in tensors.items() if "_proj." not in name}
    for name in (name.removesuffix("qweight") for name in tensors if name.endswith("qweight")):
        codes = (tensors[f"{name}qweight"].long()[:, None] >> (4 * torch.arange(8))[:, None]) & 15
        scales = tensors[f"{name}scales"].float()[tensors[f"{name}g_idx"].long()]
        plain[f"{name}weight"] = ((codes.flatten(0, 1) - 8) * scales).T.contiguous().bfloat16()
    return plain


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "modules_in_block_to_quantize": [["self_attn.k_proj"]]}


@pytest.mark.parametrize("growth", GROWTHS.values(), ids=GROWTHS)
def test_formats_that_transformers_cannot_read_here_grow_by_the_same_rule(tmp_path, growth):
    base = quantised(tmp_path / "base", gptq, GPTQ)
    grow_checkpoint(base, tmp_path / "grown", growth)
    ours = dequantised(load_file(tmp_path / "grown/model.safetensors"))
    plain = tmp_path / "plain"
    tiny("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=96).save_pretrained(plain)
    save_file(dequantised(load_file(base / "model.safetensors")), plain / "model.safetensors", {"format": "pt"})
    grow_checkpoint(plain, tmp_path / "expected", growth)
    expected = load_file(tmp_path / "expected/model.safetensors")
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def bitsandbytes(weight):
    """The names of bitsandbytes' 4-bit format: beside and below the weight."""
    names = ("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4")
    return {
        "weight": torch.randint(0, 256, (weight.numel() // 2, 1), dtype=torch.uint8),
        **{name: torch.randint(0, 256, (16,), dtype=torch.uint8) for name in names},
    }


def test_every_tensor_is_its_source_layers(tmp_path):
    base = quantised(tmp_path / "base", bitsandbytes, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    grow_checkpoint(base, tmp_path / "grown", SOME)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "grown/model.safetensors")
    expected = {name: value for name, value in before.items() if "layers." not in name}
    for new, old in enumerate((0, 1, 1, 2, 0)):
        marker = f"layers.{old}."
        expected |= {n.replace(marker, f"layers.{new}."): value for n, value in before.items() if marker in n}
    assert set(after) == set(expected)
    assert all(torch.equal(after[name], expected[name]) for name in after)


def test_names_of_layers_in_the_settings_follow_the_map(tmp_path):
    skips = ["lm_head", "model.layers.1", "model.layers.0.self_attn.q_proj", "layers.2.mlp", "re:.*router.*"]
    more = {"extra_config": {"model.layers.1.mlp": {"bits": 8}, "*.mlp": {"bits": 4}}}
    base = quantised(tmp_path / "base", fp8, {**FP8, "modules_to_not_convert": skips, **more})
    grow_checkpoint(base, tmp_path / "grown", SOME)
    settings = json.loads((tmp_path / "grown/config.json").read_text())["quantization_config"]
    assert settings["modules_to_not_convert"] == [
        "lm_head", "model.layers.1", "model.layers.2", "model.layers.0.self_attn.q_proj",
        "model.layers.4.self_attn.q_proj", "layers.3.mlp", "re:.*router.*",
    ]  # fmt: skip
    expected = {"model.layers.1.mlp": {"bits": 8}, "model.layers.2.mlp": {"bits": 8}, "*.mlp": {"bits": 4}}
    assert settings["extra_config"] == expected
    assert settings["weight_block_size"] == [32, 32]


def refused(base, target, growth, match, error=GrowthError):
    before = sorted(path.name for path in target.parent.iterdir())
    with pytest.raises(error, match=match):
        grow_checkpoint(base, target, growth)
    assert sorted(path.name for path in target.parent.iterdir()) == before


def test_what_would_compute_with_codes_is_refused_with_the_way_out(tmp_path):
    base = fp8_llama(tmp_path / "base")
    for growth, match in (
        (GrowthConfig(width=2), "cannot add up.*original weights"),
        (GrowthConfig(intermediate_size=192), "cannot add up.*original weights"),
        (GrowthConfig(depth=2, depth_method="identity"), "identity sets.*to zero.*stack"),
        (GrowthConfig(depth=2, dtype="float32"), "float32.*original weights"),
    ):
        refused(base, tmp_path / "grown", growth, match, UnsupportedModelError)
    pattern = {**FP8, "modules_to_not_convert": ["re:.*layers\\.(0|1)\\..*"]}
    refused(quantised(tmp_path / "other", fp8, pattern), tmp_path / "grown", STACK, "by a pattern")


Q, NORM = "model.layers.1.self_attn.q_proj", "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop(f"{Q}.qweight"), r"layers\.1\.self_attn\.q_proj only g_idx.*also qweight"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith(Q)], r"lacks.*q_proj\.weight"),
        (lambda t: t.pop(NORM), r"lacks.*input_layernorm"),
        (lambda t: t.update({NORM: torch.ones(7)}), r"input_layernorm.*\[7\].*\[64\]"),
        (lambda t: t.update({"model.layers.3.mlp.up_proj.qweight": torch.ones(1)}), r"does not know.*layers\.3"),
        (lambda t: t.update({"other.qweight": torch.ones(1)}), r"does not know.*other"),
        (lambda t: t[f"{Q}.scales"].view(-1)[:1].fill_(torch.inf), "scales.*infinity"),
    ],
    ids=["part of a weight", "weight", "norm", "shape", "layer", "foreign", "infinity"],
)
def test_unsound_quantised_weights_are_refused(tmp_path, change, match):
    base = quantised(tmp_path / "base", gptq, GPTQ)
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    refused(base, tmp_path / "grown", STACK, match)


def test_nan_among_8_bit_floats_is_refused(tmp_path):
    base = fp8_llama(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"].view(torch.uint8)[3, 4] = 0x7F
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    refused(base, tmp_path / "grown", STACK, "up_proj.*NaN")


def test_verify_compares_bytes_and_says_what_it_did_not_look_at(tmp_path):
    base = quantised(tmp_path / "base", gptq, GPTQ)
    grow_checkpoint(base, tmp_path / "grown", STACK)
    found = verify_checkpoint(base, tmp_path / "grown")
    assert (found.passed, found.weight_error, found.logit_drift) == (True, 0, None)
    assert any("quantised" in note for note in found.notes)
    tensors = load_file(tmp_path / "grown/model.safetensors")
    tensors["model.layers.4.mlp.up_proj.qweight"][0, 0] ^= 1
    save_file(tensors, tmp_path / "grown/model.safetensors", {"format": "pt"})
    with pytest.raises(VerificationError, match=r"layers\.4\.mlp\.up_proj\.qweight"):
        verify_checkpoint(base, tmp_path / "grown")


def test_an_adapter_of_a_quantised_base_grows_as_that_of_the_plain_one(tmp_path):
    quantised(tmp_path / "base", gptq, GPTQ)
    model = tiny("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=96)
    model.save_pretrained(tmp_path / "plain")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).save_pretrained(tmp_path / "lora")
    for base in ("base", "plain"):
        grow_adapter(tmp_path / "lora", tmp_path / f"lora-{base}", SOME, base=tmp_path / base)
    ours, theirs = (load_file(tmp_path / f"lora-{base}/adapter_model.safetensors") for base in ("base", "plain"))
    assert set(ours) == set(theirs)
    assert any("layers.4." in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UnsupportedModelError, match="cannot add up"):
        grow_adapter(tmp_path / "lora", tmp_path / "wider", GrowthConfig(width=2), base=tmp_path / "base")
