"""Text made ready for a study, with tokens that are characters."""

import gzip
import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from hf_bootstrap.errors import DataError, StudyError
from hf_bootstrap.store import lock, read_json, read_points, write_json
from hf_bootstrap.study.conduct import check_room, check_text, make_ready, planned_runs
from hf_bootstrap.study.config import StudyConfig
from hf_bootstrap.study.corpora import is_text_of, prepare_text
from hf_bootstrap.study.points import gather_points, write_points

from .conftest import DEMO_FACTS, SMALL, demo_study_record
from .test_run import run, wait_until

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "studies.md"


@dataclass
class Packed:
    tokens: int
    documents: int
    text_bytes: int
    hash: str
    tokenizer_hash: str = "characters"


@dataclass
class Letters:
    """A tokenizer, as far as a study looks into it."""

    vocabulary: dict

    def get_vocab(self):
        return self.vocabulary


class Characters:
    """Makes a token of every character, and keeps what it was given."""

    def __init__(self):
        self.packed = {}

    def load_tokenizer(self, path):
        if Path(path).name == "other":
            return Letters({"a": 1, "b": 0})
        if Path(path).name == "model":
            raise DataError("there is none")
        return Letters({"a": 0, "b": 1})

    def train_tokenizer(self, documents, vocab_size, folder):
        return Path(folder)

    def pack(self, documents, tokenizer, path, *, replay_ratio=None):
        text = "".join(documents)
        assert (replay_ratio == 0.2) == Path(path).stem.endswith("-mixed")
        self.packed[Path(path).stem] = list(documents)
        return Packed(len(text), len(documents), len(text), hashlib.sha256(text.encode()).hexdigest())


def prose(letter, sentences):
    return "\n\n".join(f"{letter}{number} " * 20 for number in range(sentences))


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_bootstrap.study.corpora._CHAPTER", 2_000)  # so that little text divides
    folder = tmp_path / "corpora"
    (folder / "de").mkdir(parents=True)
    (folder / "en.txt").write_text(prose("e", 3000))
    (folder / "de" / "one.txt.gz").write_bytes(gzip.compress(prose("d", 1500).encode()))
    (folder / "de" / "two.jsonl").write_text("".join(json.dumps({"text": prose("z", 40)}) + "\n" for _ in range(1)))
    return folder


def study(**more):
    record = {
        "name": "two",
        "texts": {"en": {"files": "*.txt"}, "de": {"files": "de/*"}},
        "vocab_size": 300,
        "held_out_characters": 2_000,
        "models": {"small": dict(SMALL)},
        "bases": [{"model": "small", "text": "en", "tokens": [10_240, 20_480]}],
        "methods": [{"name": "mixed", "text": "de", "tokens": [10_240], "replay_text": "en", "replay_ratio": 0.2}],
        "training": {"warmup_steps": 2, "rewarm_steps": 1},
        "seeds": [0, 1],
    }
    return StudyConfig.from_dict({**record, **more})


def prepare(config, folder, corpora):
    tokens = Characters()
    facts = prepare_text(config, folder, tokens, corpora=corpora, say=lambda text: None)
    return facts, tokens.packed


def test_seeds_share_what_is_held_out_and_differ_in_order(corpora, tmp_path):
    facts, packed = prepare(study(), tmp_path, corpora)
    assert set(facts["en"]) == {"train", "train-1", "held_out"}
    assert packed["en-train"] != packed["en-train-1"]
    assert sorted(packed["en-train"]) == sorted(packed["en-train-1"])
    assert not set(packed["en-held_out"]) & set(packed["en-train"])
    assert facts["en"]["train"]["hash"] != facts["en"]["train-1"]["hash"]


def test_replayed_text_has_its_share_from_the_beginning_on(corpora, tmp_path):
    facts, packed = prepare(study(), tmp_path, corpora)
    mixed = packed["de-train-mixed"]
    old = set(packed["en-train"])
    for part in (mixed[:100], mixed):
        share = sum(len(text) for text in part if text in old) / sum(map(len, part))
        assert share == pytest.approx(0.2, abs=0.02)
    assert [text for text in mixed if text not in old] == packed["de-train"]
    assert facts["de"]["train-mixed"]["replay_ratio"] == 0.2


def test_text_is_prepared_once_and_again_when_the_file_or_the_text_changes(corpora, tmp_path):
    prepare(study(), tmp_path, corpora)
    assert prepare(study(), tmp_path, corpora)[1] == {}
    assert prepare(study(held_out_characters=1_000), tmp_path, corpora)[1]
    (corpora / "en.txt").write_text(prose("n", 3500))
    assert prepare(study(held_out_characters=1_000), tmp_path, corpora)[1]


def test_an_edit_of_the_same_length_is_noticed(corpora, tmp_path):
    before, _ = prepare(study(), tmp_path, corpora)
    text = (corpora / "en.txt").read_text()
    (corpora / "en.txt").write_text(text.replace("e", "f"))
    after, packed = prepare(study(), tmp_path, corpora)
    assert packed
    assert after["en"]["train"]["hash"] != before["en"]["train"]["hash"]


def test_a_text_prepared_before_files_had_hashes_is_packed_again_as_it_was(corpora, tmp_path):
    prepare(study(), tmp_path, corpora)
    whole = read_json(tmp_path / "text.json")
    old = {**whole, "request": {**whole["request"], "files": {"en": [["en.txt", 5]]}, "versions": {"python": "3"}}}
    write_json(tmp_path / "text.json", old)
    assert is_text_of(study(), old)
    prepare(study(), tmp_path, corpora)
    assert read_json(tmp_path / "text.json") == whole


def test_a_study_file_that_asks_for_another_text_has_no_runs_that_are_known(corpora, tmp_path):
    specs = make_ready(study(), tmp_path, Characters(), corpora=corpora, say=lambda text: None)
    run_ids = [spec.run_id for spec in specs]
    found, is_final = planned_runs(study(), tmp_path)
    assert ([spec.run_id for spec in found], is_final) == (run_ids, True)
    part, is_final = planned_runs(study().narrowed(seeds=[1]), tmp_path)
    assert is_final
    assert {spec.run_id for spec in part} < set(run_ids)
    for change in ({"vocab_size": 280}, {"held_out_characters": 1_000}, {"texts": {"en": {"files": "*.txt"}}}):
        record = study().to_dict() | change
        if "texts" in change:
            record["methods"] = []
        found, is_final = planned_runs(StudyConfig.from_dict(record), tmp_path)
        assert not is_final
        assert not {spec.run_id for spec in found} & set(run_ids)


def test_two_that_begin_together_prepare_the_text_once(corpora, tmp_path):
    tokens, told, found = Characters(), [], []

    def ready():
        found.append(make_ready(study(), tmp_path, tokens, corpora=corpora, say=told.append))

    both = [threading.Thread(target=ready) for _ in range(2)]
    waiting = f"Another process is working in {tmp_path / 'text'}: waiting for it to end."
    with lock(tmp_path / "text"):
        for one in both:
            one.start()
        wait_until(lambda: told == [waiting, waiting])
    for one in both:
        one.join(timeout=60)
    assert found[0] == found[1]
    assert sum(words.startswith("Reading the text") for words in told) == 1


def elsewhere(*paths):
    bases = [{"path": str(path), "tokens": 10_240 * (number + 1)} for number, path in enumerate(paths)]
    return study(bases=[{"text": "en", "checkpoints": bases}], tokenizer="org/letters", vocab_size=None)


def test_a_base_that_is_not_there_is_named_at_once_and_again_when_all_the_rest_is_done(corpora, tmp_path):
    said, config = [], elsewhere(tmp_path / "model", "org/on-the-hub")
    specs = make_ready(config, tmp_path, Characters(), corpora=corpora, say=said.append)
    starts = [spec for spec in specs if spec.start == str(tmp_path / "model")]
    assert f"There is no model in {tmp_path}/model (no config.json), so {len(starts)} runs cannot start" in said[-1]
    with pytest.raises(StudyError, match=rf"starts from {tmp_path}/model, where no model is"):
        run(specs, tmp_path)
    done = {path.parent.name for path in tmp_path.glob("runs/*/done.json")}
    assert len(done) == sum(spec.base_tokens != 10_240 for spec in specs)
    assert {point.base_tokens for point in read_points(tmp_path / "points" / "mixed.jsonl").points} == {20_480}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert {point.base_tokens for point in run(specs, tmp_path) if point.base_tokens} == {10_240, 20_480}


def test_a_base_that_reads_other_tokens_is_refused_before_anything_starts(corpora, tmp_path):
    with pytest.raises(StudyError, match=r"The base org/other was trained .* 'a' is 0 here and 1 there"):
        make_ready(elsewhere("org/other"), tmp_path, Characters(), corpora=corpora, say=lambda text: None)
    assert not (tmp_path / "runs").exists()
    done = elsewhere("org/on-the-hub")
    said = []
    specs = make_ready(done, tmp_path, Characters(), corpora=corpora, say=said.append)
    run(specs, tmp_path)
    assert not any("not checked" in words for words in said)
    offline = Characters()
    offline.load_tokenizer = lambda path: (_ for _ in ()).throw(DataError("no way to the Hub"))
    assert make_ready(done, tmp_path, offline, corpora=corpora, say=said.append) == specs  # done, so not asked


def test_files_that_are_not_there_or_no_text_are_named(corpora, tmp_path):
    with pytest.raises(StudyError, match="--corpora DIR"):
        prepare(study(), tmp_path, None)
    with pytest.raises(StudyError, match="there is no such file"):
        prepare(study(), tmp_path, tmp_path / "nowhere")
    (corpora / "en.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(StudyError, match=r"en\.txt cannot be read as text"):
        prepare(study(), tmp_path, corpora)


def test_too_little_text_is_refused_with_the_numbers_before_anything_starts(corpora, tmp_path):
    config = study(bases=[{"model": "small", "text": "en", "tokens": [10_240, 10_240_000]}])
    with pytest.raises(StudyError, match=r"en-train\.safetensors has [\d,]+ tokens and 10,240,000 are asked"):
        make_ready(config, tmp_path, Characters(), corpora=corpora, say=lambda text: None)
    assert not (tmp_path / "runs").exists()


def test_runs_whose_points_a_file_holds_are_done_before_any_is_started(corpora, tmp_path):
    told = []
    specs = make_ready(study(), tmp_path / "there", Characters(), corpora=corpora, say=lambda text: None)
    run(specs, tmp_path / "there")
    write_points(gather_points(tmp_path / "there"), tmp_path / "points.jsonl")
    here, points = tmp_path / "here", tmp_path / "points.jsonl"
    make_ready(study(), here, Characters(), corpora=corpora, points=points, say=told.append)
    assert f"{len(specs)} runs taken over from {points}" in told
    assert f"{len(specs)} runs, {len(specs)} of them done before" in told


def test_too_little_disk_is_refused_with_the_numbers(tiny_grid, tmp_path, monkeypatch):
    specs = tiny_grid.specs()
    check_room(specs, tmp_path)
    check_text(specs, DEMO_FACTS | {"docs": {}, "code": {}})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(StudyError, match=r"12 runs to do may take .* MB and .* has 1 MB free"):
        check_room(specs, tmp_path)


def test_the_study_the_guide_shows_and_those_shipped_can_be_read():
    shown, bases = (yaml.safe_load(part.partition("```")[0]) for part in GUIDE.read_text().split("```yaml\n")[1:])
    assert StudyConfig.from_dict(shown).name == "small"
    elsewhere = StudyConfig.from_dict(shown | bases | {"vocab_size": None, "methods": []})
    assert [one.name for one in elsewhere.bases[0].checkpoints] == [
        "EleutherAI/pythia-14m@step1000", "EleutherAI/pythia-14m@step8000"
    ]  # fmt: skip
    files = sorted((GUIDE.parents[2] / "examples" / "studies").glob("*.yaml"))
    assert files
    for file in files:
        StudyConfig.from_file(file)
    assert StudyConfig.from_dict(demo_study_record()).name == "demo"
