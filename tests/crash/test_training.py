"""Training under SIGKILL and SIGTERM: it goes on by itself, with the same tokens and the same points.

`python -m tests.crash.test_training [KILLS]` kills more often, with a raw Trainer beside it as the control.
"""

import dataclasses
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hf_bootstrap.records import RunSpec
from hf_bootstrap.store import RunFolder

from ..processes import start
from ..training.conftest import DOCUMENTS, MODEL

BATCH = 2 * 16


def write_text(folder):
    from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")


def make_run(study, text, steps=40):
    study.mkdir(parents=True)
    for name in ("train", "held"):
        shutil.copy(text / f"{name}.safetensors", study)
    spec = RunSpec(
        method="scratch", domain="words", seed=1, data="train.safetensors", eval_sets={"words": "held.safetensors"},
        tokens=steps * BATCH, peak_lr=5e-3, batch_size=2, sequence_length=16, warmup_tokens=4 * BATCH,
        decay_tokens=8 * BATCH, attention="eager", model=MODEL,
        marks=tuple(n * BATCH for n in (5, steps // 2, steps - 5)),
    )  # fmt: skip
    return RunFolder.create(study, spec)


def note_the_stream(path):
    """Append the step and the hash of its tokens to a file, at each training step of any Trainer in this process."""
    from transformers import Trainer

    step = Trainer.training_step

    def noted(self, model, inputs, *rest):
        digest = hashlib.sha256(inputs["input_ids"].numpy().tobytes()).hexdigest()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{self.state.global_step} {digest}\n".encode())
        os.close(descriptor)
        return step(self, model, inputs, *rest)

    Trainer.training_step = noted


def prepare_child(folder):
    import torch

    torch.set_num_threads(1)
    output = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    note_the_stream(folder / "stream.txt")


def our_child(folder):
    prepare_child(folder)
    from hf_bootstrap.training.loop import run_one

    run_one(RunFolder(folder), save_every=BATCH)


def patient_child(folder):
    """As `study run` starts it: it saves by itself when it has taken long, here a moment."""
    prepare_child(folder)
    from hf_bootstrap.training import loop

    loop._PATIENCE = 0.01
    loop.run_one(RunFolder(folder))


def raw_child(folder):
    """The control: a plain Trainer that saves as often and resumes as transformers' own examples do."""
    prepare_child(folder)
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from hf_bootstrap.training.data import PackedBlocks

    set_seed(1)
    steps = RunFolder(folder).spec().tokens // BATCH
    args = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, save_steps=1, save_total_limit=1,
        learning_rate=5e-3, report_to=[], use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential", seed=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODEL))
    trainer = Trainer(model=model, args=args, train_dataset=PackedBlocks(folder.parents[1] / "train.safetensors", 16))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    (folder / "done.json").touch()


def to_its_end(child, folder):
    """Run without a kill; seconds it took, or None if it failed."""
    began = time.monotonic()
    process = start(child, folder)
    process.join(120)
    return time.monotonic() - began if process.exitcode == 0 else None


def stop(child, folder, number, after):
    """Start, send a signal after some seconds, and wait for the end; whether there was somebody to get it."""
    process = start(child, folder)
    process.join(after)
    if was_alive := process.is_alive():
        os.kill(process.pid, number)
    process.join(120)
    assert not process.is_alive()
    return was_alive


def stream_of(folder):
    """Step -> hash; a step that was trained again after a kill must have had the same tokens."""
    found = {}
    for line in (folder / "stream.txt").read_text().splitlines():
        step, digest = line.split()
        assert found.setdefault(int(step), digest) == digest, f"step {step} was trained on other tokens"
    return found


def measured(folder):
    return [dataclasses.replace(point, tokens_per_second=None) for point in folder.points()]


def campaign(child, root, text, number, kills, *, each=3, steps=40):
    """Kill runs at random moments, about `each` times a run; what became of those with another than the straight end.

    Runs are started until `kills` signals have met a living process.
    """
    straight = make_run(root / "straight", text, steps)
    seconds = to_its_end(child, straight.path)
    chance = random.Random(7)
    failed, hits, run = [], 0, 0
    while hits < kills:
        folder, run = make_run(root / f"run-{run}", text, steps), run + 1
        for _ in range(min(each, kills - hits)):
            hits += stop(child, folder.path, number, chance.uniform(0, seconds))
            if (folder.path / "done.json").exists():
                break
        if to_its_end(child, folder.path) is None:
            failed.append("cannot go on")
        elif stream_of(folder.path) != stream_of(straight.path):
            failed.append("other tokens")
        elif measured(folder) != measured(straight):
            failed.append("other points")
        shutil.rmtree(folder.path)
    return failed


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.mark.parametrize(
    ("number", "kills", "steps"),
    [
        (signal.SIGKILL, 2, 16),
        pytest.param(signal.SIGKILL, 60, 40, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 20, 40, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_with_the_tokens_and_points_of_an_undisturbed_one(text, tmp_path, number, kills, steps):
    assert campaign(our_child, tmp_path, text, number, kills, steps=steps) == []
    assert not multiprocessing.active_children()


def test_a_long_run_that_nobody_told_to_save_goes_on_from_its_last_tenth_after_a_kill(text, tmp_path):
    straight, killed = (make_run(tmp_path / name, text, 60) for name in ("straight", "killed"))
    assert to_its_end(our_child, straight.path) is not None
    process, deadline = start(patient_child, killed.path), time.monotonic() + 60
    while not killed.checkpoints():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert not killed.is_done()
    assert to_its_end(patient_child, killed.path) is not None
    steps = [int(line.split()[0]) for line in (killed.path / "stream.txt").read_text().splitlines()]
    assert steps.count(0) == 1  # it did not begin again
    assert stream_of(killed.path) == stream_of(straight.path)
    assert measured(killed) == measured(straight)
    assert not killed.checkpoints()  # the last one served its turn


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_text(here)
        for name, child in (("hf-bootstrap", our_child), ("raw Trainer", raw_child)):
            for number, kills in ((signal.SIGKILL, asked), (signal.SIGTERM, asked // 3)):
                wrong = campaign(child, here / name / number.name, here, number, kills)
                counted = {what: wrong.count(what) for what in sorted(set(wrong))}
                print(f"{name}: {number.name} {kills} times, wrong ends: {counted or 0}", flush=True)
