"""`hf-bootstrap grow` as it is typed."""

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from hf_bootstrap.cli.main import app, main
from hf_bootstrap.errors import BootstrapError, GrowthError, StoreError
from hf_bootstrap.growth.config import GrowthConfig

from ..growth.models import tiny


@pytest.fixture
def base(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_model_is_grown_and_the_report_is_json(base, tmp_path):
    result = run("grow", base, tmp_path / "grown", "--depth", 2, "--width", 2, "--json")
    report = json.loads(result.stdout)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "grown").num_parameters() == report["n_params"]
    assert list(report["files"]) == ["model.safetensors"]


def test_a_plan_says_sizes_and_writes_nothing(base, tmp_path):
    result = run("grow", base, tmp_path / "grown", "--width", 2, "--plan")
    assert result.exit_code == 0
    for word in ("parameters", "weights", "memory to grow", "memory to train", "FLOPs", "function"):
        assert word in result.stdout
    record = json.loads(run("grow", base, tmp_path / "grown", "--width", 2, "--plan", "--json").stdout)
    assert record["forecast"]["fits"] is True
    assert record["forecast"]["bytes_target"] > 3 * record["forecast"]["bytes_source"]
    assert os.listdir(tmp_path) == ["base"]


def test_what_does_not_fit_ends_a_plan_with_code_3(base, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    result = run("grow", base, tmp_path / "grown", "--width", 2, "--plan")
    assert result.exit_code == 3
    assert "DOES NOT FIT" in result.stdout


@pytest.mark.parametrize("text", ["width: 2\nwidth_method: clone\n", '{"width": 2, "width_method": "clone"}'])
def test_a_recipe_is_yaml_or_json(base, tmp_path, text):
    (tmp_path / "growth.yaml").write_text(text)
    run("grow", base, tmp_path / "grown", "--recipe", tmp_path / "growth.yaml")
    config = json.loads((tmp_path / "grown/config.json").read_text())
    assert config["hf_bootstrap"]["growth"][0]["recipe"]["width_method"] == "clone"


def test_a_recipe_may_be_the_folder_that_save_pretrained_writes(base, tmp_path):
    GrowthConfig(width=2, width_method="clone").save_pretrained(tmp_path / "recipe")
    run("grow", base, tmp_path / "grown", "--recipe", tmp_path / "recipe")
    config = json.loads((tmp_path / "grown/config.json").read_text())
    assert config["hf_bootstrap"]["growth"][0]["recipe"]["width_method"] == "clone"


def test_a_recipe_runs_no_code(base, tmp_path):
    (tmp_path / "growth.yaml").write_text(f"width: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(OSError, match="neither YAML nor JSON"):
        run("grow", base, tmp_path / "grown", "--recipe", tmp_path / "growth.yaml")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "growth.yaml").write_text("widht: 2")
    with pytest.raises(GrowthError, match="Did you mean 'width'"):
        run("grow", base, tmp_path / "grown", "--recipe", tmp_path / "growth.yaml")


def test_a_mistake_is_one_sentence_and_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["hf-bootstrap", "grow", str(tmp_path / "no"), str(tmp_path / "x"), "--width", "2"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert "is not a folder" in said
    assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers")
def test_an_adapter_and_adams_state_grow_beside_the_model(base, tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    from ..growth.test_optimizer_state import after_steps

    get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    torch.save(after_steps(tiny("llama"), 1), base / "optimizer.pt")
    result = run(
        "grow", base, tmp_path / "grown", "--width", 2, "--adapter", tmp_path / "lora", "--optimizer", "grow", "--json"
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert report["adapter"]["modules"] == 3
    assert report["optimizer"]["approximate"] > 0
    assert (tmp_path / "grown" / "optimizer.pt").is_file()
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    PeftModel.from_pretrained(grown, tmp_path / "grown-adapter")
    merged = ("grow", base, tmp_path / "other", "--width", 2, "--adapter", tmp_path / "lora", "--merge-adapter")
    assert "learning rate   x 0.5" in run(*merged).stdout
    assert (tmp_path / "other-merged" / "config.json").is_file()


@pytest.fixture
def lora(tmp_path):
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_the_same_command_finds_everything_done(base, lora, tmp_path):
    command = ("grow", base, tmp_path / "grown", "--width", 2, "--adapter", lora)
    first, before = run(*command).stdout, os.stat(tmp_path / "grown-adapter/adapter_model.safetensors").st_mtime_ns
    assert run(*command).stdout.splitlines()[1:] == first.splitlines()[1:]  # but for the time it took
    assert os.stat(tmp_path / "grown-adapter/adapter_model.safetensors").st_mtime_ns == before
    merging = ("grow", base, tmp_path / "other", "--width", 2, "--adapter", lora, "--merge-adapter")
    run(*merging)
    merged = os.stat(tmp_path / "other-merged/model.safetensors")
    assert run(*merging).exit_code == 0
    assert os.stat(tmp_path / "other-merged/model.safetensors") == merged
    assert not (tmp_path / "other/merge.json").exists()


def test_a_growth_killed_after_the_merge_is_finished_by_the_same_command(base, lora, tmp_path, monkeypatch):
    command = ("grow", base, tmp_path / "grown", "--width", 2, "--adapter", lora, "--merge-adapter")

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hf_bootstrap.growth.stream._write_the_rest", killed)
        assert run(*command).exit_code != 0
    assert (tmp_path / "grown-merged").exists()
    assert not (tmp_path / "grown").exists()
    assert run(*command).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["base", "grown", "grown-merged", "lora"]


def test_another_merge_is_not_taken_for_this_one(base, lora, tmp_path):
    command = ("grow", base, tmp_path / "grown", "--width", 2, "--adapter", lora, "--merge-adapter")
    run(*command)
    weights = load_file(lora / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, lora / "adapter_model.safetensors")
    with pytest.raises(GrowthError, match="not this adapter merged into this base"):
        run(*command)


def test_an_adapter_that_cannot_grow_is_refused_before_anything_is_written(base, lora, tmp_path):
    before = sorted(os.listdir(tmp_path))
    target = tmp_path / "grown"
    with pytest.raises(GrowthError, match="aki takes new units from the next layer"):
        run("grow", base, target, "--width", 2, "--width-method", "aki", "--adapter", lora)
    with pytest.raises(GrowthError, match="aki takes new units from the next layer"):
        run("grow", base, target, "--width", 2, "--width-method", "aki", "--adapter", lora, "--plan")
    with pytest.raises(GrowthError, match="Nearest are"):
        run("grow", base, target, "--hidden-size", 50, "--adapter", lora, "--merge-adapter")
    with pytest.raises(GrowthError, match="--adapter, which is not given"):
        run("grow", base, target, "--width", 2, "--merge-adapter")
    change = load_file(base / "model.safetensors")
    change["lm_head.weight"][0, 0] = torch.nan
    save_file(change, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GrowthError, match="NaN"):
        run("grow", base, target, "--width", 2, "--adapter", lora, "--merge-adapter")
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "grown-adapter").mkdir()
    (tmp_path / "grown-adapter/thesis.txt").write_text("years")
    with pytest.raises(GrowthError, match="not an empty folder"):
        run("grow", base, target, "--width", 2, "--adapter", lora)
    assert not target.exists()


def test_a_plan_into_a_target_that_cannot_be_is_refused(base, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    for target in (base, tmp_path / "file", tmp_path / "file/grown", tmp_path / ("x" * 300), tmp_path / "mine"):
        with pytest.raises(BootstrapError, match=r"[Cc]hoose another"):
            run("grow", base, target, "--width", 2, "--plan")
    assert run("grow", base, tmp_path / "new/grown", "--width", 2, "--plan").exit_code == 0
    assert not (tmp_path / "new").exists()


def test_what_travels_is_refused_before_anything_is_grown(base, tmp_path):
    with pytest.raises(StoreError, match=r"optimizer\.pt"):
        run("grow", base, tmp_path / "grown", "--width", 2, "--optimizer", "grow")
    with pytest.raises(GrowthError, match="reset, grow or asymmetric"):
        run("grow", base, tmp_path / "grown", "--width", 2, "--optimizer", "keep")
    with pytest.raises(StoreError):
        run("grow", base, tmp_path / "grown", "--width", 2, "--adapter", tmp_path / "nothing")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["base"]


def test_every_size_has_an_option_of_its_own(base, tmp_path):
    sizes = {"--hidden-size": 96, "--intermediate-size": 120, "--num-attention-heads": 8, "--num-key-value-heads": 4}
    run("grow", base, tmp_path / "grown", *(word for pair in sizes.items() for word in pair), "--num-hidden-layers", 5)
    config = json.loads((tmp_path / "grown/config.json").read_text())
    assert {
        f"--{name.replace('_', '-')}": config[name] for name in config if f"--{name.replace('_', '-')}" in sizes
    } == sizes
    assert config["num_hidden_layers"] == 5
    run("grow", base, tmp_path / "mapped", "--layer-map", "0,1,1,2", "--dtype", "bfloat16")
    assert json.loads((tmp_path / "mapped/config.json").read_text())["num_hidden_layers"] == 4
    with pytest.raises(GrowthError, match="as in 0,0,1,1"):
        run("grow", base, tmp_path / "other", "--layer-map", "0-3")
    with pytest.raises(GrowthError, match="Give one of them"):
        run("grow", base, tmp_path / "other", "--layer-map", "0,1", "--depth", 2)


def test_a_recipe_and_options_together_are_refused(base, tmp_path):
    (tmp_path / "growth.yaml").write_text("width: 2")
    with pytest.raises(GrowthError, match="so does --depth"):
        run("grow", base, tmp_path / "grown", "--recipe", tmp_path / "growth.yaml", "--depth", 2)


def test_pickles_are_read_when_asked_for_and_remote_code_needs_a_commit(base, tmp_path):
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    plan = json.loads(run("grow", base, tmp_path / "grown", "--depth", 2, "--plan", "--allow-pickle", "--json").stdout)
    assert plan["forecast"]["fits"] is True
    run("grow", base, tmp_path / "grown", "--depth", 2, "--allow-pickle")
    with pytest.raises(GrowthError, match="--allow-pickle"):
        run("verify", base, tmp_path / "grown")
    assert run("verify", base, tmp_path / "grown", "--allow-pickle").exit_code == 0
    with pytest.raises(GrowthError, match="a folder has no revision"):
        run("grow", base, tmp_path / "other", "--depth", 2, "--trust-remote-code")


@pytest.mark.parametrize("command", ["grow", "verify"])
def test_help_fits_a_screen(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(command, "--help").stdout.splitlines()
    assert len(lines) <= 60
    assert any("Example: hf-bootstrap" in line for line in lines)


def test_verify_says_what_it_found_as_text_json_and_card(base, tmp_path):
    run("grow", base, tmp_path / "grown", "--width", 2)
    assert "drift" in run("verify", base, tmp_path / "grown").stdout
    record = json.loads(run("verify", base, tmp_path / "grown", "--json").stdout)
    assert record["passed"] is True
    assert record["gradient_reach"] is True
    assert run("verify", base, tmp_path / "grown", "--card", "--no-gradients").stdout.startswith("## Verification")
