"""`hf-bootstrap run`: a run folder to its end, stopped and started again, by one process or two."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from hf_bootstrap.cli.main import app
from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import RunFolder

from ..training.conftest import DOCUMENTS, MODEL

BATCH = 2 * 16
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

    folder = tmp_path_factory.mktemp("text")
    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")
    return folder


@pytest.fixture
def make(text, tmp_path):
    """A function that makes the folder of a run, in a study of its own."""

    def folder(study="study", **changes):
        (tmp_path / study).mkdir()
        for name in ("train", "held"):
            shutil.copy(text / f"{name}.safetensors", tmp_path / study)
        facts = {
            "method": "scratch", "domain": "words", "seed": 1, "data": "train.safetensors", "tokens": 20 * BATCH,
            "eval_sets": {"words": "held.safetensors"}, "peak_lr": 5e-4, "batch_size": 2, "sequence_length": 16,
            "warmup_tokens": 4 * BATCH, "decay_tokens": 5 * BATCH, "attention": "eager", "model": MODEL,
            "marks": (5 * BATCH, 12 * BATCH),
        }  # fmt: skip
        return RunFolder.create(tmp_path / study, RunSpec(**{**facts, **changes}))

    return folder


def call(*arguments):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def started(folder, *flags, launcher=()):
    command = [sys.executable, *launcher, "-m", "hf_bootstrap.cli", "run", str(folder.path), *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=OFFLINE, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def measured(folder):
    return [dataclasses.replace(point, tokens_per_second=None) for point in folder.points()]


def test_a_run_is_trained_to_its_end_and_a_done_one_is_not_trained_again(make):
    folder = make()
    said = json.loads(call(folder.path, "--json").stdout)
    last = folder.points()[-1]
    assert folder.is_done()
    assert said == {
        "run_id": folder.path.name, "folder": str(folder.path), "was_done": False, "points": 3,
        "tokens": last.tokens, "loss": last.loss,
    }  # fmt: skip
    assert folder.checkpoints() == [], "those that only served to go on are gone"
    again = call(folder.path)
    assert again.exit_code == 0
    assert "was done before" in again.output
    assert len(folder.points()) == 3


@pytest.mark.parametrize(
    ("stop", "code", "says"),
    [(signal.SIGTERM, 143, "Terminated"), pytest.param(signal.SIGINT, 130, "Stopped", marks=pytest.mark.slow)],
)
def test_a_stopped_run_says_so_and_goes_on_from_its_newest_checkpoint(make, stop, code, says):
    size = {"tokens": 160 * BATCH, "warmup_tokens": 0, "marks": (50 * BATCH,)}
    straight, folder = make("straight", **size), make("stopped", **size)
    assert call(straight.path, "--save-every", 16 * BATCH).exit_code == 0
    child = started(folder, "--save-every", str(16 * BATCH))
    while not folder.checkpoints() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(stop)
    _, error = child.communicate(timeout=60)
    assert (child.returncode, folder.is_done()) == (code, False), error
    assert says in error
    assert "Traceback" not in error
    assert folder.checkpoints()
    assert call(folder.path).exit_code == 0
    assert measured(folder) == measured(straight)


@pytest.mark.parametrize(
    "launcher",
    [pytest.param(TWO, id="torchrun"), pytest.param(LAUNCH, id="accelerate launch", marks=pytest.mark.slow)],
)
def test_two_processes_train_the_run_of_one(make, launcher):
    one, two = make("one"), make("two")
    assert call(one.path).exit_code == 0
    child = started(two, "--json", launcher=launcher)
    out, error = child.communicate(timeout=120)
    assert child.returncode == 0, error
    assert json.loads(out)["points"] == 3, "one process speaks"
    assert two.is_done()
    for single, double in zip(measured(one), measured(two), strict=True):
        assert double.loss == pytest.approx(single.loss, rel=1e-5)
        assert (double.world_size, double.tokens, double.token_slots) == (2, single.tokens, single.token_slots)


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused(make):
    child = started(make(batch_size=3, tokens=3 * 16 * 5, warmup_tokens=0, decay_tokens=0, marks=()), launcher=TWO)
    _, error = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "trains 3 blocks a step, which 2 processes cannot share equally" in error


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    child = started(RunFolder(tmp_path / "none"))
    _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.startswith("Error: ")
    assert "Traceback" not in error
