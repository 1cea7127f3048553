"""A tiny model of every type `AutoModelForCausalLM` knows: defaults of the architecture, made small by field name.

Sizes are pairwise different, so that an axis taken for another shows. What the names cannot tell (sums that must fit,
fields a class wants together) stands in `BY_HAND`, one line per type.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import re
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
VOCABULARY = 97
LAYERS = 4

# Small values by the name of the field (whole name, regular expression); the first that fits is taken.
SMALL: tuple[tuple[str, Any], ...] = (
    (r"vocab_size|audio_vocab_size|decoder_vocab_size|unpadded_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"pronunciation_vocab_size|shape_vocab_size", 31),
    (r"num_hidden_layers|n_layers?|num_layers|decoder_layers|num_decoder_layers|num_blocks", LAYERS),
    (r"encoder_layers|num_encoder_layers|depth|num_ngram_layers", 2),
    (r"hidden_size|n_embd|d_model|emb_dim|embedding_dim|word_embed_proj_dim|out_hidden_size", 48),
    (r"hidden_size_global|attention_hidden_size|lru_width|embedding_size", 48),
    (r"num_attention_heads|n_heads?|num_heads|(decoder|encoder)_attention_heads|swa_num_attention_heads", 4),
    (r"num_key_value_heads|n_head_kv|num_kv_heads|swa_num_key_value_heads|num_global_key_value_heads", 2),
    (r"head_dim|attention_head_dim|attention_head_size|swa_head_dim|global_head_dim|kv_channels|dim_head|d_kv", 16),
    (r"intermediate_size|ffn_dim|n_inner|d_ff|dff|dim_ff|(decoder|encoder)_ffn_dim|feed_forward_size|d_inner", 40),
    (r"ffn_hidden_size|intermediate_size_mlp|dense_intermediate_size|mlp_dim", 40),
    (r"(moe|expert)_(intermediate|ffn_hidden)_size|expert_ffn_hidden_size", 24),
    (r".*shared.*intermediate_size", 20),
    (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts", 8),
    (r"num_experts_per_tok|moe_topk|moe_k|top_k_experts|moe_top_k|num_experts_per_token|num_selected_experts", 2),
    (r"n_group|topk_group|n_groups|num_expert_group|topk_groups", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|first_k_dense", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length", 128),
    (r"max_(source|target)_positions|original_max_position_embeddings|mem_len", 64),
    (r"(attention_)?sliding_window(_size)?|attention_window_size|window_size|attention_chunk_size|local_attention", 8),
    (r"kv_lora_rank", 20),
    (r"q_lora_rank|o_lora_rank|hc_lowrank|router_hidden_size", 28),
    (r"qk_nope_head_dim", 8),
    (r"qk_rope_head_dim", 4),
    (r"qk_head_dim", 12),
    (r"v_head_dim", 10),
    (r"index_head_dim", 8),
    (r"index_n_heads", 4),
    (r"index_topk|index_block_size", 8),
    (r"linear_num_value_heads|linear_num_heads", 4),
    (r"linear_num_key_heads", 2),
    (r"linear_(key_|value_)?head_dim", 8),
    (r"(mamba_)?d_state|mamba_d_state|ssm_state_size|state_size", 8),
    (r"rotary_dim", 8),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 4),
    (r"mamba_d_head|mamba_head_dim|mamba_headdim", 24),
    (r"(mamba_)?chunk_size|mamba_chunk_size|block_size", 8),
    (r"time_step_rank|mamba_dt_rank", 3),
    (r"query_pre_attn_scalar", 16),
    (r"image_size|crop_size", 28),
    (r"patch_size", 14),
    (r"laurel_rank|hidden_size_per_layer_input|ple_embed_dim|adapter_rank", 12),
    (r"ngram_vocab_size_base|num_position_embeddings|position_bias_.*", 64),
    (r"split_ngram_parts", 2),
    (r"num_kv_shared_layers", 0),
    (r"backbone_hidden_size", 48),
    (r"audio_chunk_size", 160),
    (r"encoder_hash_byte_group_vocab", 50),
    (r"num_centroids", 8),
    (r"centroid_intermediate_top_k", 4),
    (r"zero_expert_num", 2),
    (r"moe_layer_end_index", LAYERS - 1),
    (r"max_window_layers", 2),
    (r"layers_per_block", 2),
)

_QWEN4: dict[str, Any] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}
# What names cannot tell. A dotted name reaches into a part of a composite config; None leaves a field out.
BY_HAND: dict[str, dict[str, Any]] = {
    "blt": {
        "patcher_config.head_dim": 12,
        "encoder_config.head_dim": 12,
        "decoder_config.head_dim": 12,
        "global_config.head_dim": 12,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8.0, "ffn_config.hidden_size": 48},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "head_dim": 16,
        "o_groups": 2,
        "partial_rotary_factor": 0.5,
        "qk_rope_head_dim": None,
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "compress": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5},
        },
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 8, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_attention_heads": 4, "num_key_value_heads": 4, "per_layer_config": None},
    "dots3_note": {
        "text_config.num_key_value_heads": 4,
        "text_config.per_layer_config": None,
        "vision_config.adapter_in_dim": 48,
        "vision_config.adapter_out_dim": 48,
        "vision_config.per_layer_config": None,
        "audio_config.adapter_input_size": 48,
        "audio_config.adapter_out_dim": 48,
    },
    "falcon_h1": {"mamba_d_ssm": 96, "mamba_n_heads": 4, "mamba_d_head": 24, "mamba_expand": 2},
    "helium": {"head_dim": 12},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "mamba2": {"head_dim": 24},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 32], "axial_pos_shape": [8, 16]},
    "olmoe": {"head_dim": 12},
    "qwen4_exp": {f"text_config.{name}": value for name, value in _QWEN4.items()},
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "rwkv": {"rescale_every": 0},
    "stablelm": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "xlnet": {"d_head": 12},
    "zamba2": {
        "hybrid_layer_ids": [1, 3],
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_hidden_size": 96,
        "attention_head_dim": 24,
    },
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_hidden_size": 96,
        "attention_head_dim": 24,
    },
    "xmod": {"default_language": "en_XX"},
}


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The architecture's own defaults, small."""
    config_class = CONFIG_MAPPING[model_type]
    try:
        record = config_class().to_dict()
    except Exception:  # noqa: BLE001  (a class whose own defaults it refuses: start from the fields it declares)
        record = {}
    depth = _depth_of(record.get("text_config") or record)
    _shrink(record, depth)
    for name, value in {**BY_HAND.get(model_type, {}), **changes}.items():
        holder, *path = record, *name.split(".")
        for part in path[:-1]:
            holder = holder[part]
        if value is None:
            holder.pop(path[-1], None)
        else:
            holder[config_class.attribute_map.get(path[-1], path[-1])] = value
    config = config_class.from_dict(record)
    _eager(config)
    return config


def tiny_model(model_type: str, *, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """Built with every parameter random: norm weights and biases too, or an error in them would not show."""
    config = tiny_config(model_type, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.5 if parameter.dim() == 1 else 0))


def _depth_of(record: dict[str, Any]) -> int | None:
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks")
    return next((record[name] for name in names if isinstance(record.get(name), int)), None)


def _shrink(record: dict[str, Any], depth: int | None) -> None:
    for name, value in list(record.items()):
        if isinstance(value, dict):
            if name not in ("id2label", "label2id", "rope_parameters", "rope_scaling", "per_layer_config"):
                _shrink(value, _depth_of(value) or depth)
        elif isinstance(value, list) and value and len(value) == depth:
            record[name] = _shorter(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            record[name] = _smaller(name, value)
    if record.get("qk_rope_head_dim"):  # latent attention: as many key as query heads
        record |= {k: v for k, v in (("head_dim", 4), ("num_key_value_heads", 4)) if k in record}
    for name, value in (("head_dim", 16), ("num_key_value_heads", 2)):
        if name in record and record[name] is None:
            record[name] = value
    if record.get("per_layer_config"):
        record["per_layer_config"] = {LAYERS - 1: next(iter(record["per_layer_config"].values()))}
        _shrink(record["per_layer_config"][LAYERS - 1], None)
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(record.get(name), dict) and "mrope_section" in record[name]:
            record[name] = {**record[name], "mrope_section": [4, 2, 2]}


def _shorter(values: list[Any]) -> list[Any]:
    """Every kind of layer, and the last kind last, as most architectures want it."""
    kinds = values if isinstance(values[0], list | dict) else list(dict.fromkeys(values))
    return ([kinds[0]] * LAYERS + kinds)[-LAYERS:] if len(kinds) <= LAYERS else values[:LAYERS]


def _smaller(name: str, value: int) -> int:
    if re.fullmatch(r".*token_(id|index)", name):
        return value if value < VOCABULARY else 80 + sum(map(ord, name)) % 16
    for pattern, small in SMALL:
        if re.fullmatch(pattern, name):
            return small if value > small or small >= VOCABULARY else value
    return value


def _eager(config: PreTrainedConfig) -> None:
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            _eager(part)
