"""`hf-bootstrap run`: a run folder to its end, stopped and started again, by one process or two."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hf_bootstrap.cli.main import app, main
from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import RunFolder

from ..processes import start, together
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


def started(folder, *flags, launcher=(), error=subprocess.PIPE):
    words = [sys.executable, *launcher, "-m", "hf_bootstrap.cli", "run", str(folder.path), *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, env=OFFLINE, stdout=pipe, stderr=error, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


def command(folder, *flags):
    """In a process that has everything loaded, what `python -m hf_bootstrap.cli` does; see `..processes`."""
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    sys.argv = ["hf-bootstrap", "run", str(folder), *flags]
    main()


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


def check_stopped(make, begin, stop, code, says):
    """Stop a run once it has a checkpoint; it says so, and the next one goes on to the points of an undisturbed run."""
    size = {"tokens": 160 * BATCH, "warmup_tokens": 0, "marks": (50 * BATCH,)}
    straight, folder = make("straight", **size), make("stopped", **size)
    assert call(straight.path, "--save-every", 16 * BATCH).exit_code == 0
    process, wait = begin(folder, "--save-every", str(16 * BATCH))
    while not folder.checkpoints() and wait(0.01) is None:
        pass
    os.kill(process.pid, stop)
    assert (wait(60), folder.is_done()) == (code, False)
    error = (folder.path / "error").read_text()
    assert says in error
    assert "Traceback" not in error
    assert folder.checkpoints()
    assert call(folder.path).exit_code == 0
    assert measured(folder) == measured(straight)


def forked(folder, *flags):
    process = start(command, folder.path, *flags)

    def wait(seconds):
        process.join(seconds)
        return process.exitcode

    return process, wait


def launched(folder, *flags):
    process = started(folder, *flags, error=(folder.path / "error").open("w"))

    def wait(seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)

    return process, wait


def test_a_stopped_run_says_so_and_goes_on_from_its_newest_checkpoint(make):
    check_stopped(make, forked, signal.SIGTERM, 143, "Terminated")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code", "says"), [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Stopped")]
)
def test_a_command_that_is_stopped_says_so_and_goes_on(make, stop, code, says):
    check_stopped(make, launched, stop, code, says)


def check_two(one, two, out):
    assert json.loads(out)["points"] == 3, "one process speaks"
    assert two.is_done()
    for single, double in zip(measured(one), measured(two), strict=True):
        assert double.loss == pytest.approx(single.loss, rel=1e-5)
        assert (double.world_size, double.tokens, double.token_slots) == (2, single.tokens, single.token_slots)


def test_two_processes_train_the_run_of_one(make):
    one, two = make("one"), make("two")
    assert call(one.path).exit_code == 0
    assert together(2, command, two.path, "--json") == [0, 0], (two.path / "error").read_text()
    check_two(one, two, (two.path / "out").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TWO, LAUNCH], ids=["torchrun", "accelerate launch"])
def test_two_processes_of_a_launcher_train_the_run_of_one(make, launcher):
    one, two = make("one"), make("two")
    assert call(one.path).exit_code == 0
    out, error = started(two, "--json", launcher=launcher).communicate(timeout=120)
    assert two.is_done(), error
    check_two(one, two, out)


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
