"""Growth on disk: the same bits as growth in memory, whole or absent, and nothing left behind by what is refused."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MixtralConfig, PreTrainedTokenizerFast

from hf_bootstrap import grow_checkpoint
from hf_bootstrap.errors import BootstrapError, GrowthError, StoreError
from hf_bootstrap.growth import recipe as recipes
from hf_bootstrap.growth import staging, stream, writer
from hf_bootstrap.growth.architecture import build_meta
from hf_bootstrap.growth.bootstrap import bootstrap_from_pretrained
from hf_bootstrap.growth.checkpoint import open_checkpoint
from hf_bootstrap.growth.config import GrowthConfig
from hf_bootstrap.growth.forecast import forecast_growth
from hf_bootstrap.growth.hub_layout import hub_layout
from hf_bootstrap.growth.job import prepare_growth
from hf_bootstrap.growth.layout import lay_out, shard_index
from hf_bootstrap.store import lock

from .models import drift, logits, mostly_slow, random_ids, tiny

WIDER, DEEPER = GrowthConfig(width=2), GrowthConfig(depth=2)
SILENT = GrowthConfig(depth=2, depth_method="identity")
BOTH = GrowthConfig(width=2, depth=2, depth_method="interpose", seed=3)


def make(path, model_type="llama", dtype=torch.bfloat16, **changes):
    tiny(model_type, dtype=dtype, **changes).save_pretrained(path)
    (path / "tokenizer.json").write_text('{"any": "bytes"}')
    (path / "modeling_mine.py").write_text("raise SystemExit('this ran')")
    return path


@pytest.fixture
def base(tmp_path):
    return make(tmp_path / "base")


def state(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def tensors(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("growth", [WIDER, DEEPER, BOTH, SILENT], ids=["wider", "deeper", "both", "identity"])
@pytest.mark.parametrize(
    "model_type", mostly_slow(["llama", "gpt2", "gpt_neox", "qwen3", "gemma3_text", "olmo3"], ("gpt2", "gemma3_text"))
)
def test_the_files_hold_what_growth_in_memory_makes(tmp_path, monkeypatch, model_type, growth):
    monkeypatch.setattr(recipes, "BLOCK", 1000)  # many blocks a tensor
    base = make(tmp_path / "base", model_type)
    report = grow_checkpoint(base, tmp_path / "grown", growth)
    in_memory = bootstrap_from_pretrained(base, growth, attn_implementation="eager")
    in_memory.save_pretrained(tmp_path / "expected")
    ours, theirs = tensors(tmp_path / "grown"), tensors(tmp_path / "expected")
    assert set(ours) == set(theirs)  # the names save_pretrained writes, tied tensors once
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "grown", attn_implementation="eager")
    assert drift(logits(loaded, input_ids=random_ids()), logits(in_memory, input_ids=random_ids())) == 0
    assert loaded.num_parameters() == report.n_params
    assert loaded.config.architectures == in_memory.config.architectures
    (step,) = loaded.config.hf_bootstrap["growth"]
    assert step["recipe"] == in_memory.config.hf_bootstrap["growth"][0]["recipe"]


def test_what_travels_travels_unchanged_and_is_never_run(base, tmp_path):
    before = state(base)
    (base / "README.md").write_text("the base's card")
    os.symlink("/etc/hostname", base / "linked.txt")
    report = grow_checkpoint(base, tmp_path / "grown", WIDER)
    after = state(tmp_path / "grown")
    for name in ("tokenizer.json", "modeling_mine.py", "generation_config.json"):
        assert after[name] == before[name]
    assert set(after) == set(before) | {"growth.json"}
    assert any("README.md" in note and "linked.txt" in note for note in report.notes)
    record = json.loads((tmp_path / "grown/growth.json").read_text())
    assert record["files"]["model.safetensors"]["sha256"] == after["model.safetensors"]
    assert {name: digest for name, digest in state(base).items() if name in before} == before
    assert sorted(os.listdir(tmp_path)) == ["base", "grown"]


def with_tokenizer(base):
    """A tokenizer with two chat templates, a vocabulary in files of odd endings, and code in a package."""
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}{{ messages }}"}
    tokenizer.save_pretrained(base)
    for name in ("bpe.codes", "vocab.bpe", "mine.tokenizer", "code/layers/attention.py", "original/params.json"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(f"raise SystemExit('{name} ran')")
    return tokenizer


def test_a_tokenizer_with_two_templates_and_code_in_folders_travel(base, tmp_path):
    before = with_tokenizer(base)
    os.symlink("/etc", base / "elsewhere")
    os.symlink(base / "code/layers/attention.py", base / "code/linked.py")
    report = grow_checkpoint(base, tmp_path / "grown", WIDER)
    after = AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert after.chat_template == before.chat_template
    assert len(after.chat_template) == 2
    assert after("a b b").input_ids == before("a b b").input_ids
    for name in ("bpe.codes", "vocab.bpe", "mine.tokenizer", "code/layers/attention.py"):
        assert (tmp_path / "grown" / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "grown/original").exists()
    assert not (tmp_path / "grown/code/linked.py").exists()
    assert "not carried over: code, elsewhere, original" in report.notes


def test_two_growths_are_equal_byte_by_byte_and_the_limit_changes_only_the_files(base, tmp_path):
    grow_checkpoint(base, tmp_path / "one", BOTH)
    grow_checkpoint(base, tmp_path / "two", BOTH)
    assert state(tmp_path / "one")["model.safetensors"] == state(tmp_path / "two")["model.safetensors"]
    report = grow_checkpoint(base, tmp_path / "many", BOTH, max_shard_size="50kB")
    assert len(report.files) > 3
    assert all(
        torch.equal(tensor, tensors(tmp_path / "one")[name]) for name, tensor in tensors(tmp_path / "many").items()
    )
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "many")]
    assert torch.equal(*(logits(model, input_ids=random_ids()) for model in models))
    again = grow_checkpoint(tmp_path / "many", tmp_path / "twice", DEEPER, max_shard_size=10**5)  # shards in too
    assert again.n_params > report.n_params


def test_bytes_depend_neither_on_threads_nor_on_the_hash_seed(base, tmp_path):
    script = (
        "import sys; from hf_bootstrap import GrowthConfig, grow_checkpoint\n"
        "growth = GrowthConfig(width=2, depth=2, depth_method='identity')\n"
        "print(*grow_checkpoint(sys.argv[1], sys.argv[2], growth).files.values())"
    )
    found = []
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        arguments = [sys.executable, "-c", script, base, tmp_path / threads]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
        found.append(done.stdout)
    assert found[0] == found[1] != ""
    one, two = state(tmp_path / "1"), state(tmp_path / "2")
    assert one == two


def test_a_finished_growth_is_not_done_again(base, tmp_path):
    first = grow_checkpoint(base, tmp_path / "grown", WIDER)
    before = os.stat(tmp_path / "grown/model.safetensors").st_mtime_ns
    second = grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert second.files == first.files
    assert os.stat(tmp_path / "grown/model.safetensors").st_mtime_ns == before


def test_another_target_is_replaced_only_if_it_is_ours_and_asked_for(base, tmp_path):
    grow_checkpoint(base, tmp_path / "grown", WIDER)
    with pytest.raises(GrowthError, match="overwrite"):
        grow_checkpoint(base, tmp_path / "grown", DEEPER)
    grow_checkpoint(base, tmp_path / "grown", DEEPER, overwrite=True)
    assert json.loads((tmp_path / "grown/config.json").read_text())["num_hidden_layers"] == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(GrowthError, match="not written by a growth"):
        grow_checkpoint(base, tmp_path / "mine", WIDER, overwrite=True)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    assert sorted(os.listdir(tmp_path)) == ["base", "grown", "mine"]


def refused(base, target, growth=WIDER, error=BootstrapError, match=None):
    """A growth that must fail, leave nothing behind and leave the source alone."""
    before, beside = state(base), sorted(os.listdir(target.parent))
    with pytest.raises(error, match=match):
        grow_checkpoint(base, target, growth)
    assert state(base) == before
    assert sorted(os.listdir(target.parent)) == beside


def test_source_and_target_may_not_be_in_one_another(base, tmp_path):
    refused(base, base, match="in one another")
    refused(base, base / "inside", match="in one another")
    os.symlink(base, tmp_path / "alias")
    refused(base, tmp_path / "alias", match="in one another")


def test_a_target_that_cannot_be_is_refused_before_any_work(base, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "prepare_growth", lambda *arguments, **options: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "link")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    refused(base, tmp_path / "file", error=GrowthError, match="not a folder")
    refused(base, tmp_path / "link", error=GrowthError, match="a link to")
    refused(base, tmp_path / "broken", error=GrowthError, match="a link to")
    refused(base, tmp_path / ("x" * 300), error=StoreError, match="name too long")
    for target in (tmp_path / "file/grown", tmp_path / "file/more/grown"):
        with pytest.raises(StoreError, match="choose another"):
            grow_checkpoint(base, target, WIDER)


def test_folders_above_a_target_are_made_and_go_again_if_it_fails(base, tmp_path):
    grow_checkpoint(base, tmp_path / "some/more/grown", WIDER)
    assert os.listdir(tmp_path / "some/more") == ["grown"]
    change_weights(base, lambda w: w["lm_head.weight"].view(-1)[-1:].fill_(torch.nan))
    with pytest.raises(GrowthError, match="NaN"):
        grow_checkpoint(base, tmp_path / "other/more/grown", WIDER)
    assert sorted(os.listdir(tmp_path)) == ["base", "some"]


def change_weights(base, change):
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("growth", [WIDER, DEEPER], ids=["wider", "deeper"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("model.norm.weight"), r"lacks tensors.*model\.norm"),
        (lambda w: w.update({"model.extra": torch.ones(2)}), r"does not know.*model\.extra"),
        (lambda w: w.update({"model.norm.weight": torch.ones(7)}), r"another shape.*model\.norm"),
        (lambda w: w.update({"model.norm.weight": torch.ones(48, dtype=torch.bool)}), r"model\.norm.*stored as BOOL"),
        (lambda w: w["model.layers.1.mlp.up_proj.weight"].view(-1)[7:8].fill_(torch.nan), "up_proj.*NaN"),
        (lambda w: w["lm_head.weight"].view(-1)[-1:].fill_(-torch.inf), "lm_head.*infinity"),
    ],
    ids=["missing", "unknown", "shape", "bool", "nan", "inf"],
)
def test_unsound_weights_are_refused(base, tmp_path, growth, change, match):
    change_weights(base, change)
    refused(base, tmp_path / "grown", growth, GrowthError, match)


def test_a_truncated_file_is_refused(base, tmp_path):
    with open(base / "model.safetensors", "r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    refused(base, tmp_path / "grown", error=StoreError, match="cut short")


def test_quantised_and_foreign_configs_are_refused(base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    for change, match in (
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "modeling_mine.Config"}}, "cannot be used"),
        ({"num_attention_heads": 0}, None),
        ({"hidden_size": 10**15}, None),
    ):
        (base / "config.json").write_text(json.dumps({**config, **change}))
        refused(base, tmp_path / "grown", error=GrowthError, match=match)


def test_tied_tensors_stored_twice_are_stored_once_if_they_agree(tmp_path):
    base = make(tmp_path / "base", "gpt2")
    change_weights(base, lambda w: w.update({"lm_head.weight": w["transformer.wte.weight"].clone()}))
    report = grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert "lm_head.weight" not in open_checkpoint(tmp_path / "grown").entries
    assert any("lm_head.weight" in note for note in report.notes)
    change_weights(base, lambda w: w["lm_head.weight"].view(-1)[0:1].add_(1))
    refused(base, tmp_path / "other", match="two that differ")


def test_older_files_without_the_prefix_and_with_masks_are_read(tmp_path):
    base = make(tmp_path / "base", "gpt2")
    grow_checkpoint(base, tmp_path / "expected", WIDER)
    weights = {name.removeprefix("transformer."): t for name, t in load_file(base / "model.safetensors").items()}
    save_file({**weights, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, base / "model.safetensors")
    report = grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert any("h.0.attn.bias" in note for note in report.notes)
    assert state(tmp_path / "grown")["model.safetensors"] == state(tmp_path / "expected")["model.safetensors"]


def test_no_growth_and_no_room_are_refused(base, tmp_path, monkeypatch):
    refused(base, tmp_path / "grown", GrowthConfig(), GrowthError, "no growth")
    with pytest.raises(GrowthError, match="max_shard_size"):
        grow_checkpoint(base, tmp_path / "grown", WIDER, max_shard_size=0)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    refused(base, tmp_path / "grown", error=StoreError, match="free some|5 bytes are free")


@pytest.mark.parametrize("calls", [0, 1, 5, 20])
def test_a_disk_that_fills_up_leaves_nothing_behind(base, tmp_path, monkeypatch, calls):
    real, left = os.pwrite, [calls]

    def failing(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(writer.os, "pwrite", failing)
    refused(base, tmp_path / "grown", error=StoreError, match="No space left.*needs.*free")


def test_a_limit_on_file_sizes_is_an_error_that_says_so(base, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        refused(base, tmp_path / "grown", error=StoreError, match="could not be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_target_someone_else_is_growing_into_is_refused(base, tmp_path):
    with lock(tmp_path / ".grown.growing"), pytest.raises(StoreError, match="Another process"):
        grow_checkpoint(base, tmp_path / "grown", WIDER)
    grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert sorted(os.listdir(tmp_path)) == ["base", "grown"]


def test_an_interrupted_growth_is_finished_by_the_next_call(base, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_SYNC_EVERY", 1)  # note every tensor
    grow_checkpoint(base, tmp_path / "expected", WIDER)
    real, written = writer._write_tensor, []

    def interrupted(work, descriptor, entry):
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(entry.name)
        real(work, descriptor, entry)

    monkeypatch.setattr(writer, "_write_tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert not (tmp_path / "grown").exists()
    (tmp_path / ".grown.growing/model/.config.json.1.tmp").write_text("half")
    first = list(written)
    monkeypatch.setattr(writer, "_write_tensor", lambda *a: (written.append(a[2].name), real(*a)))
    grow_checkpoint(base, tmp_path / "grown", WIDER)
    assert written == list(dict.fromkeys(written)), "no tensor was written twice"
    assert len(first) == 10
    ours, theirs = state(tmp_path / "grown"), state(tmp_path / "expected")
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    assert set(ours) == set(theirs)
    assert not (tmp_path / ".grown.growing").exists()


def test_what_another_growth_left_behind_does_not_count(base, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_write_the_rest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grow_checkpoint(base, tmp_path / "grown", WIDER)
    grow_checkpoint(base, tmp_path / "grown", GrowthConfig(width=2, seed=1))
    grow_checkpoint(base, tmp_path / "expected", GrowthConfig(width=2, seed=1))
    assert state(tmp_path / "grown")["model.safetensors"] == state(tmp_path / "expected")["model.safetensors"]


def peak_memory():
    """Bytes this process has used at most since the last call."""
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def sparse(folder, config):
    """A checkpoint of holes, which use no disk."""
    folder.mkdir()
    config.save_pretrained(folder)
    shards = lay_out(((n, "BF16", shape) for n, shape in hub_layout(build_meta(config)).shapes.items()), 5 * 10**9)
    for shard in shards:
        with open(folder / shard.name, "wb") as file:
            file.write(shard.header)
            file.truncate(shard.size)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps(shard_index(shards)))
    return folder


def test_the_memory_that_growth_needs_does_not_grow_with_an_expert(tmp_path):
    needs = []
    for number, size in enumerate((14336, 4 * 14336)):  # Mixtral's, and larger
        config = MixtralConfig(num_hidden_layers=1, intermediate_size=size, dtype="bfloat16")
        base = sparse(tmp_path / f"base{number}", config)
        needs.append(forecast_growth(prepare_growth(base, WIDER), tmp_path / "grown").peak_ram)
    assert needs[0] == pytest.approx(needs[1], rel=0.01)
    assert max(needs) < 0.6e9
    assert forecast_growth(prepare_growth(base, DEEPER), tmp_path / "grown").peak_ram <= max(needs)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is asked of Linux")
def test_growing_large_experts_takes_as_much_memory_as_growing_small_ones(tmp_path):
    script = (
        "import re, sys; from hf_bootstrap import GrowthConfig, grow_checkpoint\n"
        "grow_checkpoint(sys.argv[1], sys.argv[2], GrowthConfig(width=2))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for size in (256, 16384):
        config = MixtralConfig(hidden_size=1024, intermediate_size=size, num_hidden_layers=1, num_local_experts=2,
                               num_attention_heads=16, vocab_size=1000, dtype="bfloat16")  # fmt: skip
        arguments = [sparse(tmp_path / f"base{size}", config), tmp_path / f"grown{size}"]
        done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout) * 1024)
    expert = 2 * 2 * 16384 * 2 * 1024 * 2  # bytes of gate and up of one grown expert
    assert peaks[1] - peaks[0] < expert // 2
    assert max(peaks) < 900e6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is asked of Linux")
def test_a_plan_for_70b_costs_little_and_says_that_it_does_not_fit(tmp_path):
    config = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
                         num_key_value_heads=8, vocab_size=128256, dtype="bfloat16")  # fmt: skip
    folder = sparse(tmp_path / "base", config)
    peak_memory()
    before, began = peak_memory(), time.process_time()
    job = prepare_growth(folder, GrowthConfig(depth=2, width=2))
    forecast = forecast_growth(job, tmp_path / "grown")
    assert time.process_time() - began < 10
    assert peak_memory() - before < 0.5e9  # and as much for torch and transformers: well under 1.5 GB
    assert job.plan.n_params > 500e9
    assert forecast.bytes_target > 2 * job.plan.n_params
    assert not forecast.fits
