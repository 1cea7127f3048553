"""The training entry point as its users call it: under accelerate, and on a real checkpoint and real text."""

import gzip
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_bootstrap.laws.points import Points
from hf_bootstrap.store import read_points
from hf_bootstrap.training.data import train_tokenizer

from ..hub.conftest import environment
from ..hub.server import Hub
from .pages import ROOT

SHARED = Path(os.environ.get("HF_BOOTSTRAP_SHARED", ROOT / "../shared"))
STORIES = SHARED / "data/checkpoints/stories260K"
WIKITEXT = SHARED / "data/corpora/wikitext-2/valid.txt.gz"
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def start(folder, *arguments, launcher=()):
    command = [sys.executable, *launcher, str(ROOT / "examples/cpt.py"), "--output_dir", "out", *arguments]
    return subprocess.run(command, cwd=folder, env=OFFLINE, capture_output=True, text=True, timeout=300, check=False)


def run(folder, *arguments, launcher=()):
    done = start(folder, *arguments, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    read = read_points(folder / "out/points.jsonl")
    assert not read.problems
    return read.points


@pytest.fixture
def text(tmp_path):
    """Train and held-out slices of WikiText."""
    if not WIKITEXT.exists():
        pytest.skip(f"{WIKITEXT} is not here; set HF_BOOTSTRAP_SHARED to the folder with the test corpora")
    words = gzip.decompress(WIKITEXT.read_bytes()).decode()
    (tmp_path / "train.txt").write_text(words[:300_000])
    (tmp_path / "held.txt").write_text(words[-30_000:])
    return ["--train_file", "train.txt", "--validation_file", "held.txt"]


@pytest.fixture
def base():
    """Flags that name a real checkpoint and the tokens it was trained on."""
    if not STORIES.exists():
        pytest.skip(f"{STORIES} is not here; set HF_BOOTSTRAP_SHARED to the folder with the test checkpoint")
    return ["--model_name_or_path", str(STORIES.resolve()), "--base_tokens", "6.5e9"]


def plain_loss(text):
    """What the checkpoint knows of the text before it has read any like it: transformers' own loss, in windows."""
    tokenizer, model = AutoTokenizer.from_pretrained(STORIES), AutoModelForCausalLM.from_pretrained(STORIES)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    windows = ids[: len(ids) // 128 * 128].reshape(-1, 128)
    with torch.no_grad():
        return model(input_ids=windows, labels=windows).loss.item()


def test_it_runs_under_accelerate_launch(tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    points = run(tmp_path, "--max_tokens", "8k", launcher=launcher)
    assert [(p.method, p.tokens, p.base_tokens, p.phase) for p in points] == [("scratch", 15 * 512, 0, "end")]


@pytest.mark.parametrize("growth", [None, {"width": 2}, {"depth": 2, "depth_method": "stack"}], ids=str)
def test_a_real_checkpoint_grows_and_learns_wikitext(tmp_path, text, growth, base):
    flags = [*base, "--max_tokens", "80k", *text]
    if growth is not None:
        (tmp_path / "growth_config.json").write_text(json.dumps(growth))
        flags += ["--growth", str(tmp_path)]
    (point,) = run(tmp_path, *flags, "--learning_rate", "5e-4")
    assert (point.tokens, point.base_tokens, point.n_params_base) == (156 * 512, 6_500_000_000, 260_032)
    assert point.loss < plain_loss((tmp_path / "held.txt").read_text()) - 0.5
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert saved.num_parameters() == point.n_params
    assert (point.n_params > 260_032) == (growth is not None)


def test_another_tokenizer_keeps_bits_per_byte_comparable(tmp_path, text, base):
    words = (tmp_path / "train.txt").read_text()
    train_tokenizer([words[i : i + 1000] for i in range(0, len(words), 1000)], 700, tmp_path / "tokenizer")
    flags = [*base, "--max_tokens", "20k", *text]
    (point,) = run(tmp_path, *flags, "--tokenizer_name", "tokenizer")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 700
    held = (tmp_path / "held.txt").read_text()
    sums = point.eval["held_out"]
    assert sums["bytes"] == len(held.encode())
    assert sums["count"] == len(AutoTokenizer.from_pretrained(tmp_path / "tokenizer")(held)["input_ids"]) + 1
    assert point.bits_per_byte == pytest.approx(sums["sum"] / math.log(2) / sums["bytes"])


def test_replay_isolation_and_a_lora_reach_the_points_and_another_text_is_refused(tmp_path, text, base):
    (tmp_path / "stories.txt").write_text("Once upon a time there was a little dog. It ran in the park. " * 300)
    flags = [*base, "--max_tokens", "20k", *text]
    flags += ["--replay_file", "stories.txt", "--base_validation_file", "stories.txt", "--isolate_documents"]
    flags += ["--lora_r", "4", "--forecast", "--save_steps", "20"]
    (point,) = run(tmp_path, *flags)
    assert (point.method, point.replay_ratio, set(point.eval)) == ("lora", 0.05, {"held_out", "held_out_base"})
    assert (point.packing, point.optimizer_reset) == ("joined by end-of-text, documents isolated by position_ids", True)
    assert point.rewarm_tokens > 0
    assert (tmp_path / "out/adapter_model.safetensors").exists()
    (tmp_path / "train.txt").write_text("Another text.")
    done = start(tmp_path, *flags)
    assert done.returncode != 0
    assert "the folder belongs to another run" in done.stderr


def test_a_push_takes_model_and_points_along_and_leaves_the_text_at_home(tmp_path):
    with Hub() as hub:
        command = [sys.executable, str(ROOT / "examples/cpt.py"), "--output_dir", "out", "--max_tokens", "2k"]
        command += ["--push_to_hub", "--hub_model_id", "me/continued"]
        alone = {**environment(hub, tmp_path / "home"), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (repo,) = hub.repos.values()
        pushed = list(repo.head())
    assert {"points.jsonl", "model.safetensors", "tokenizer.json"} <= set(pushed)
    assert not [name for name in pushed if "text" in name or "train." in name or "held_out" in name]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_command_to_the_points_of_one_that_was_not(tmp_path, text, base):
    flags = [*base, "--max_tokens", "60k", *text]
    flags += ["--save_steps", "10"]
    straight = run(tmp_path, *flags)
    (tmp_path / "out").rename(tmp_path / "straight")
    command = [sys.executable, str(ROOT / "examples/cpt.py"), "--output_dir", "out", *flags]
    with subprocess.Popen(
        command, cwd=tmp_path, env=OFFLINE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("out/checkpoint-*/complete.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert job.poll() is None, "still training when it is killed"
        job.kill()
    again = run(tmp_path, *flags)
    assert [(p.tokens, p.loss, p.phase) for p in again] == [(p.tokens, p.loss, p.phase) for p in straight]


@pytest.mark.slow
def test_two_processes_leave_the_points_of_one(tmp_path, text, base):
    flags = [*base, "--max_tokens", "20k", *text]
    flags += ["--learning_rate", "5e-4"]
    (one,) = run(tmp_path, *flags, "--per_device_train_batch_size", "4")
    (tmp_path / "out").rename(tmp_path / "one")
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    (two,) = run(tmp_path, *flags, "--per_device_train_batch_size", "2", launcher=launcher)
    assert (one.world_size, two.world_size) == (1, 2)
    assert (two.tokens, two.batch_tokens, two.phase) == (one.tokens, one.batch_tokens, one.phase)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


def stories(folder):
    """Text of the base's own domain, which is text that it writes: some to replay, some held out."""
    tokenizer, model = AutoTokenizer.from_pretrained(STORIES), AutoModelForCausalLM.from_pretrained(STORIES)
    torch.manual_seed(0)
    first = torch.full((128, 1), tokenizer.bos_token_id)
    written = model.generate(first, do_sample=True, max_new_tokens=127, min_new_tokens=127, pad_token_id=0)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    for name, part in (("replay", texts[:96]), ("stories", texts[96:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))


@pytest.mark.slow
@pytest.mark.parametrize(
    "corpus", ["wikitext-2/valid", "tinyshakespeare/input", "gsm8k/train", "eltec-de/eltec"], ids=lambda name: name[:5]
)
def test_text_of_any_kind_is_learnt_and_replay_keeps_what_was_known(tmp_path, corpus, base):
    file = SHARED / f"data/corpora/{corpus}.txt.gz"
    if not file.exists():
        pytest.skip(f"{file} is not here; set HF_BOOTSTRAP_SHARED to the folder with the test corpora")
    words = gzip.decompress(file.read_bytes()).decode()
    (tmp_path / "train.txt").write_text(words[:300_000])
    (tmp_path / "held.txt").write_text(words[-20_000:])
    stories(tmp_path)
    flags = [*base, "--max_tokens", "80k"]
    flags += ["--train_file", "train.txt", "--validation_file", "held.txt", "--base_validation_file", "stories.jsonl"]
    (alone,) = run(tmp_path, *flags)
    (tmp_path / "out").rename(tmp_path / "alone")
    (mixed,) = run(tmp_path, *flags, "--replay_file", "replay.jsonl")
    known = plain_loss(
        " ".join(json.loads(line)["text"] for line in (tmp_path / "stories.jsonl").read_text().splitlines())
    )
    forgot = [p.eval["held_out_base"]["sum"] / p.eval["held_out_base"]["count"] for p in (alone, mixed)]
    assert alone.loss < plain_loss((tmp_path / "held.txt").read_text()) - 0.5
    assert known < forgot[1] < forgot[0]
    assert len(Points.read([alone, mixed])) == 2
