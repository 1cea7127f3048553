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

from ..training.conftest import DOCUMENTS, MODEL

STEPS, BATCH = 40, 2 * 16
CONTEXT = multiprocessing.get_context("forkserver")


def write_text(folder):
    from hf_bootstrap.training.data import load_tokenizer, pack, train_tokenizer

    tokenizer = load_tokenizer(str(train_tokenizer(DOCUMENTS, 300, folder)))
    pack(DOCUMENTS[:50], tokenizer, folder / "train.safetensors")
    pack(DOCUMENTS[50:], tokenizer, folder / "held.safetensors")


def make_run(study, text):
    study.mkdir(parents=True)
    for name in ("train", "held"):
        shutil.copy(text / f"{name}.safetensors", study)
    spec = RunSpec(
        method="scratch", domain="words", seed=1, data="train.safetensors", eval_sets={"words": "held.safetensors"},
        tokens=STEPS * BATCH, peak_lr=5e-3, batch_size=2, sequence_length=16, warmup_tokens=4 * BATCH,
        decay_tokens=8 * BATCH, attention="eager", model=MODEL, marks=tuple(n * BATCH for n in (5, 17, 29)),
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


def raw_child(folder):
    """The control: a plain Trainer that saves as often and resumes as transformers' own examples do."""
    prepare_child(folder)
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from hf_bootstrap.training.data import PackedBlocks

    set_seed(1)
    args = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, save_steps=1, save_total_limit=1,
        learning_rate=5e-3, report_to=[], use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential", seed=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODEL))
    trainer = Trainer(model=model, args=args, train_dataset=PackedBlocks(folder.parents[1] / "train.safetensors", 16))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    (folder / "done.json").touch()


def start(child, folder):
    process = CONTEXT.Process(target=child, args=(folder,))
    process.start()
    return process


def to_its_end(child, folder):
    """Run without a kill; seconds it took, or None if it failed."""
    began = time.monotonic()
    process = start(child, folder)
    process.join(120)
    return time.monotonic() - began if process.exitcode == 0 else None


def stop(child, folder, number, after):
    """Start, send a signal after some seconds, and wait for the end."""
    process = start(child, folder)
    process.join(after)
    process.is_alive() and os.kill(process.pid, number)
    process.join(120)
    assert not process.is_alive()


def stream_of(folder):
    """Step -> hash; a step that was trained again after a kill must have had the same tokens."""
    found = {}
    for line in (folder / "stream.txt").read_text().splitlines():
        step, digest = line.split()
        assert found.setdefault(int(step), digest) == digest, f"step {step} was trained on other tokens"
    return found


def measured(folder):
    return [dataclasses.replace(point, tokens_per_second=None) for point in folder.points()]


def campaign(child, root, text, number, kills, each=3):
    """Kill runs at random moments, `each` times a run; how many runs did not come to the undisturbed end."""
    straight = make_run(root / "straight", text)
    seconds = to_its_end(child, straight.path)
    chance = random.Random(7)
    failed = []
    for run in range(-(-kills // each)):
        folder = make_run(root / f"run-{run}", text)
        for _ in range(min(each, kills - run * each)):
            stop(child, folder.path, number, chance.uniform(0, seconds))
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
    CONTEXT.set_forkserver_preload(["torch", "transformers.trainer", "hf_bootstrap.training.loop"])
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.mark.parametrize(
    ("number", "kills"),
    [
        (signal.SIGKILL, 3),
        pytest.param(signal.SIGKILL, 60, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 20, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_with_the_tokens_and_points_of_an_undisturbed_one(text, tmp_path, number, kills):
    assert campaign(our_child, tmp_path, text, number, kills) == []
    assert not multiprocessing.active_children()


if __name__ == "__main__":
    CONTEXT.set_forkserver_preload(["torch", "transformers.trainer", "hf_bootstrap.training.loop"])
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_text(here)
        for name, child in (("hf-bootstrap", our_child), ("raw Trainer", raw_child)):
            for number, kills in ((signal.SIGKILL, asked), (signal.SIGTERM, asked // 3)):
                wrong = campaign(child, here / name / number.name, here, number, kills)
                counted = {what: wrong.count(what) for what in sorted(set(wrong))}
                print(
                    f"{name}: {number.name} {kills} times in {-(-kills // 3)} runs, wrong ends: {counted or 0}",
                    flush=True,
                )
