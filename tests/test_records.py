"""The two records: what they take, what they refuse, and that what is written is what is read."""

import dataclasses
import json
import math
import time
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_bootstrap import records
from hf_bootstrap.errors import PointError, RecordError
from hf_bootstrap.records import PHASES, SCHEMA, RunSpec, ScalingPoint
from hf_bootstrap.sealing import canonical_json, seal, unseal

from .strategies import points, specs, sums, words

POINT = {"run_id": "run-1", "tokens": 131_072, "loss": 3.25}
SPEC = {
    "method": "continue",
    "domain": "code",
    "seed": 0,
    "data": "text/code.tokens",
    "eval_sets": {"code": "text/code.held-out"},
    "tokens": 5120,
    "peak_lr": 4e-3,
    "batch_size": 4,
    "sequence_length": 128,
    "start": "run-1/checkpoint-3",
}


def fields_of(cls, *kinds):
    """Names of the fields whose annotation begins with one of `kinds`."""
    return [f.name for f in dataclasses.fields(cls) if str(f.type).removeprefix("<class '").startswith(kinds)]


# --- both records ---------------------------------------------------------------------------------------------


@given(points)
def test_a_point_is_read_back_as_it_was(point):
    assert ScalingPoint.from_dict(point.to_dict()) == point
    assert ScalingPoint.from_dict(unseal(seal(point.to_dict()))) == point


@given(specs())
def test_a_spec_is_read_back_as_it_was_under_the_same_name(spec):
    again = RunSpec.from_dict(json.loads(canonical_json(spec.to_dict())))
    assert again == spec
    assert again.run_id == spec.run_id


@pytest.mark.parametrize(("cls", "good", "error"), [(ScalingPoint, POINT, PointError), (RunSpec, SPEC, RecordError)])
class TestBothRecords:
    def test_an_unknown_field_is_answered_with_the_nearest(self, cls, good, error):
        with pytest.raises(error, match=r"no field 'token'\. Did you mean 'tokens'\?"):
            cls.from_dict({**good, "token": 3})

    def test_a_missing_field_is_named(self, cls, good, error):
        with pytest.raises(error, match="'tokens', which is missing"):
            cls.from_dict({key: value for key, value in good.items() if key != "tokens"})

    @pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, True, pytest.param(10**400, id="long"), [1]])
    def test_another_schema_version_is_refused(self, cls, good, error, version):
        with pytest.raises(error, match="schema"):
            cls.from_dict({**good, "schema": version})
        with pytest.raises(error, match="schema"):
            cls(**{**good, "schema": version})

    @pytest.mark.parametrize(
        "value", [True, "3", 1.5, 3.0, 2**63, pytest.param(10**5000, id="long"), -1, [3], {}, math.nan, 3j]
    )
    def test_a_count_is_a_whole_number_of_64_bits(self, cls, good, error, value):
        with pytest.raises(error, match="whole number"):
            cls(**{**good, "tokens": value})

    def test_numpy_numbers_become_pythons(self, cls, good, error):
        record = cls(**{**good, "tokens": np.int64(5120), "base_tokens": np.uint8(7)})
        assert (type(record.tokens), type(record.base_tokens)) == (int, int)
        assert record == cls(**{**good, "tokens": 5120, "base_tokens": 7})

    def test_a_record_cannot_be_changed_afterwards_through_what_it_was_made_of(self, cls, good, error):
        hashes = {"data": "ab"}
        record = cls(**good, hashes=hashes)
        written = record.to_dict()
        hashes["data"] = written["hashes"]["data"] = "changed"
        assert record.hashes == {"data": "ab"}
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.tokens = 1

    def test_a_huge_value_gives_a_short_message(self, cls, good, error):
        began = time.perf_counter()
        for record in ({**good, "x" * 10**6: 1}, {**good, "hashes": "x" * 10**6}, {**good, "tokens": [0] * 10**6}):
            with pytest.raises(error) as caught:
                cls.from_dict(record)
            assert len(str(caught.value)) < 2000
        assert time.perf_counter() - began < 3

    @pytest.mark.parametrize("hashes", [None, [], {"data": 1}, {1: "ab"}, "ab"])
    def test_hashes_are_names_to_text(self, cls, good, error, hashes):
        with pytest.raises(error, match="hashes"):
            cls(**good, hashes=hashes)


# --- a point --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, None, "3.2", True, pytest.param(10**400, id="long")]
)
def test_a_loss_is_positive_and_finite(loss):
    with pytest.raises(PointError, match="loss"):
        ScalingPoint(**{**POINT, "loss": loss})


def test_a_refused_loss_is_told_with_its_run_and_tokens():
    with pytest.raises(PointError, match=r"run 'run-1' at 131,072 tokens has loss -1.0"):
        ScalingPoint(**{**POINT, "loss": -1.0})


@pytest.mark.parametrize("loss", [np.float32(3.25), np.float64(3.25), np.float16(3.25)])
def test_a_loss_from_numpy_becomes_pythons_float(loss):
    assert type(ScalingPoint(**{**POINT, "loss": loss}).loss) is float
    assert ScalingPoint(**{**POINT, "loss": loss}) == ScalingPoint(**POINT)


@pytest.mark.parametrize("name", [n for n in fields_of(ScalingPoint, "float") if n not in ("loss",)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, True, "1"])
def test_every_number_of_a_point_is_finite_and_not_negative(name, value):
    with pytest.raises(PointError, match=name):
        ScalingPoint(**POINT, **{name: value})


@pytest.mark.parametrize("name", [n for n in fields_of(ScalingPoint, "str") if n not in ("run_id", "phase")])
@pytest.mark.parametrize("value", [b"text", 3, ["a"]])
def test_every_text_of_a_point_is_text(name, value):
    with pytest.raises(PointError, match=name):
        ScalingPoint(**{**POINT, name: value})


@pytest.mark.parametrize("phase", ["End", "", "done", None, 3])
def test_a_phase_is_one_of_four(phase):
    with pytest.raises(PointError, match="phase"):
        ScalingPoint(**POINT, phase=phase)
    assert [ScalingPoint(**POINT, phase=known).phase for known in PHASES] == list(PHASES)


def test_a_point_belongs_to_a_run():
    with pytest.raises(PointError, match="run_id"):
        ScalingPoint(**{**POINT, "run_id": ""})


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"sum": 1.0},
        {"count": 3},
        {"sum": None, "count": 3},
        {"sum": 1.0, "count": None},
        {"sum": 1.0, "count": 0},
        {"sum": 1.0, "count": 2.5},
        {"sum": math.nan, "count": 3},
        {"sum": math.inf, "count": 3},
        {"sum": -1.0, "count": 3},
        {"sum": True, "count": 3},
        {"sum": 1.0, "count": 3, "bytes": 0},
        {"sum": 1.0, "count": 3, "bytes": 1.5},
        {"sum": 1.0, "count": 3, "loss": 0.3},
        [1.0, 3],
        None,
    ],
)
def test_an_evaluation_is_a_sum_over_a_whole_count(measured):
    with pytest.raises(PointError, match="eval"):
        ScalingPoint(**POINT, eval={"code": measured})


@given(sums)
def test_an_evaluation_keeps_its_numbers_and_says_when_bytes_are_unknown(measured):
    kept = ScalingPoint(**POINT, eval={"code": measured}).eval["code"]
    assert kept == {"bytes": None, **measured}
    assert type(kept["count"]) is int


# --- a line ---------------------------------------------------------------------------------------------------


@given(points, st.data())
def test_a_change_of_one_byte_is_noticed_or_means_the_same(point, data):
    line = bytearray(seal(point.to_dict()).encode())
    position = data.draw(st.integers(0, len(line) - 1))
    line[position] ^= data.draw(st.integers(1, 255))
    try:
        record = unseal(line.decode("utf-8"))
    except (PointError, UnicodeDecodeError):
        return
    # "1e5" and "1E5", or the last digit of a float that has more digits than it needs.
    assert record == point.to_dict()


def test_every_change_of_one_byte_of_a_real_line_is_noticed():
    line = seal(ScalingPoint(**POINT, lr=0.001, hashes={"data": "ab"}).to_dict()).encode()
    for position in range(len(line)):
        for change in range(1, 256):
            damaged = bytearray(line)
            damaged[position] ^= change
            with pytest.raises((PointError, UnicodeDecodeError)):
                unseal(bytes(damaged).decode("utf-8"))


@given(st.dictionaries(words, words | st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_seal_is_the_crc_of_the_line_without_it(record):
    record.pop("crc32", None)
    line = json.loads(seal(record))
    assert line.pop("crc32") == zlib.crc32(json.dumps(line, sort_keys=True, separators=(",", ":")).encode())


def test_a_line_written_again_by_another_program_still_holds():
    line = seal(ScalingPoint(**POINT).to_dict())
    spaced = json.dumps(dict(reversed(json.loads(line).items())), indent=1)
    assert unseal(spaced) == unseal(line)


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "null", "3", "[]", '"text"', "{", "{}", '{"loss":3.2}', '{"crc32":null}', '{"crc32":true}', "\x18"),
        *('{"a":NaN,"crc32":1}', '{"a":1e999,"crc32":1}', '{"a":1,"a":1,"crc32":1}', "\ufeff{}"),
        '{"a":' + "9" * 5000 + ',"crc32":1}',
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"crc32":' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_a_line_that_is_not_sealed_is_refused(line):
    with pytest.raises(PointError):
        unseal(line)


def test_a_crc_of_another_type_is_refused_though_python_finds_it_equal():
    line = json.loads(seal({"a": 1}))
    with pytest.raises(PointError, match="crc32"):
        unseal(json.dumps({**line, "crc32": float(line["crc32"])}))


@given(st.text())
@example('{"crc32":0}')
def test_no_text_makes_unseal_raise_anything_but_our_error(text):
    with pytest.raises(PointError):
        unseal(text)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1, 2}, b"bytes", np.int64(3), pytest.param(10**5000, id="long")]
)
def test_what_json_cannot_hold_is_not_written(value):
    with pytest.raises(RecordError):
        canonical_json({"value": value})


def test_a_structure_without_end_is_not_written():
    endless = {}
    endless["self"] = endless
    with pytest.raises(RecordError):
        canonical_json(endless)
    with pytest.raises(RecordError):
        RunSpec(**{**SPEC, "start": None}, model=endless)


# --- a run ----------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_its_content():
    spec = RunSpec(**SPEC)
    assert spec.run_id == RunSpec(**SPEC).run_id
    assert spec.run_id.startswith("continue-code-0-5120-")
    others = {
        dataclasses.replace(spec, **change).run_id for change in ({"seed": 1}, {"peak_lr": 3e-3}, {"marks": (512,)})
    }
    assert len({spec.run_id, *others}) == 4


def test_a_run_keeps_the_name_it_had_before_later_fields_existed():
    # Folders of finished runs bear these names: another one would train them again.
    assert RunSpec(**SPEC).run_id == "continue-code-0-5120-e3dee62403"
    assert RunSpec(**SPEC, lora=None, optimizer="reset").run_id == "continue-code-0-5120-e3dee62403"
    assert RunSpec.from_dict(
        {**RunSpec(**SPEC).to_dict(), "lora": None, "optimizer": "reset", "autocast": "no"}
    ) == RunSpec(**SPEC)


def test_a_lora_is_held_whole_so_that_equal_requests_have_equal_names():
    short = RunSpec(**SPEC, lora={"r": 8})
    assert short.lora == {"r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": None}
    assert short.run_id == RunSpec(**SPEC, lora={"dropout": 0, "alpha": 16, "r": 8}).run_id != RunSpec(**SPEC).run_id
    named = RunSpec(**SPEC, lora={"r": 8, "target_modules": ("v_proj", "q_proj")})
    assert named.lora["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("word", ["../../etc", "a/b", "a b", "日本語", "..", "x" * 300, "-", ""])
def test_the_name_of_a_run_is_a_safe_name_for_a_folder(word):
    name = RunSpec(**{**SPEC, "method": word, "domain": word, "eval_sets": {word: "x"}}).run_id
    assert name.isascii()
    assert not set(name) & set("/\\ \0")
    assert len(name) < 200


def test_the_config_of_a_model_names_the_same_run_after_json():
    # transformers writes id2label with int keys; JSON makes them text, in another order.
    config = {"hidden_size": 64, "id2label": {9: "a", 10: "b"}, "shape": (1, 2), "eps": np.float32(0.5)}
    spec = RunSpec(**{**SPEC, "start": None}, model=config)
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))).run_id == spec.run_id
    assert spec.model == {"hidden_size": 64, "id2label": {"9": "a", "10": "b"}, "shape": [1, 2], "eps": 0.5}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"start": None}, "exactly one"),
        ({"model": {}}, "exactly one"),
        ({"start": ""}, "start"),
        ({"start": "../other/checkpoint-3"}, "leads out"),
        ({"start": "run-1/../../checkpoint-3"}, "leads out"),
        ({"start": "run-1/check\0point"}, "leads out"),
        ({"resume": True, "start": "/elsewhere/checkpoint-3"}, "same study"),
        ({"resume": True, "start": "run-1"}, "same study"),
        ({"resume": True, "growth": {"depth": 2}}, "no growth"),
        ({"resume": True, "start": None, "model": {}}, "goes on from a checkpoint"),
        ({"lora": {"alpha": 4}}, "rank of at least 1"),
        ({"lora": {"r": 0}}, "rank of at least 1"),
        ({"lora": {"r": True}}, "rank of at least 1"),
        ({"lora": {"r": 2, "alpha": 0}}, "above 0"),
        ({"lora": {"r": 2, "alpha": "4"}}, "above 0"),
        ({"lora": {"r": 2, "dropout": 1}}, "below 1"),
        ({"lora": {"r": 2, "dropout": True}}, "below 1"),
        ({"lora": {"r": 2, "target_modules": "q_proj"}}, "list of names"),
        ({"lora": {"r": 2, "target_modules": []}}, "list of names"),
        ({"lora": {"rank": 2}}, "no key 'rank'"),
        ({"lora": 8}, "a mapping"),
        ({"lora": {"r": 2}, "start": None, "model": {}}, "from scratch"),
        ({"optimizer": "grow", "start": None, "model": {}}, "from scratch"),
        ({"optimizer": "grown"}, "Did you mean 'grow'"),
        ({"autocast": "bfloat16"}, "Did you mean 'bf16'"),
        ({"optimizer": "grow", "lora": {"r": 2}}, "Leave one of them out"),
        ({"data": "/etc/passwd"}, "data"),
        ({"data": "../secret"}, "data"),
        ({"data": "a/../../secret"}, "data"),
        ({"data": ""}, "data"),
        ({"data": "a\0b"}, "data"),
        ({"tokenizer": "/x"}, "tokenizer"),
        ({"tokenizer": ".."}, "tokenizer"),
        ({"eval_sets": {"code": "../x"}}, "code"),
        ({"eval_sets": {}}, "eval_sets"),
        ({"domain": "maths"}, "Name one set after the domain"),
        ({"eval_sets": ["a"]}, "eval_sets"),
        ({"tokens": 0}, "whole steps"),
        ({"tokens": 5121}, "Ask for 5,120"),
        ({"batch_size": 0}, "whole steps"),
        ({"warmup_tokens": 3000, "decay_tokens": 3000}, "do not fit"),
        ({"marks": (6000,)}, "marks"),
        ({"marks": (-1,)}, "marks"),
        ({"marks": 5}, "marks"),
        ({"marks": "5"}, "marks"),
        ({"checkpoints": (5121,)}, "checkpoints"),
        ({"peak_lr": 0.0}, "peak_lr"),
        ({"peak_lr": math.inf}, "peak_lr"),
        ({"adam_betas": (0.9,)}, "adam_betas"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas"),
        ({"adam_betas": 0.9}, "adam_betas"),
        ({"adam_betas": "ab"}, "adam_betas"),
        ({"growth": {"depth": math.nan}}, "growth"),
        ({"growth": {"operator": object()}}, "growth"),
        ({"resume": 1}, "resume"),
    ],
)
def test_a_run_that_could_not_be_carried_out_is_refused(change, match):
    with pytest.raises(RecordError, match=match):
        RunSpec(**{**SPEC, **change})


@pytest.mark.parametrize("start", ["run-1/checkpoint-3", "org/model", "gpt2", "/models/base", "a..b/c"])
def test_weights_may_come_from_the_study_a_folder_or_the_hub(start):
    assert RunSpec(**{**SPEC, "start": start}).parent_run_id is None


def test_a_branch_knows_its_parent():
    assert RunSpec(**SPEC, resume=True).parent_run_id == "run-1"


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from([*SPEC, "marks", "model", "hashes", "schema", "resume"]),
        st.none() | words | st.integers() | st.floats() | st.booleans() | st.lists(st.integers()),
    )
)
def test_no_record_makes_a_spec_raise_anything_but_our_error(record):
    try:
        spec = RunSpec.from_dict({**SPEC, **record})
    except RecordError:
        return
    assert spec.schema == SCHEMA


@pytest.mark.parametrize("changed", ['"loss":2.50', '"loss":2.5 ', '"loss":2.5,"loss":2.5'])
def test_a_line_summed_over_its_own_bytes_is_still_refused_unless_canonical(changed):
    """The CRC is of the canonical form: a writer that sums other bytes is not believed, whatever the bytes say."""
    bare = f'{{{changed},"run_id":"r","schema":1,"tokens":5}}'
    line = f'{{"crc32":{zlib.crc32(bare.encode())},{bare[1:]}'
    with pytest.raises(PointError):
        unseal(line)


def test_the_short_way_and_the_long_way_make_the_same_point(monkeypatch):
    point = ScalingPoint(
        run_id="r", tokens=5, loss=2.5, seed=-3, eval={"a": {"sum": 1.5, "count": 3, "bytes": 9}}, hashes={"data": "x"}
    )
    short = ScalingPoint.from_dict(point.to_dict())
    monkeypatch.setattr(records, "settled_fields", lambda *_, **__: None)
    assert ScalingPoint.from_dict(point.to_dict()) == short == point
    assert hash(type(short)) == hash(ScalingPoint)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": float("nan")}, {"loss": -1.0}, {"loss": float("inf")}, {"lr": -1e-3}, {"tokens": -1},
        {"tokens": 2**63}, {"seed": -(2**63)}, {"run_id": ""}, {"phase": "ended"}, {"hashes": {"data": 1}},
        {"eval": {"a": {"sum": 1.0}}},
        {"eval": {"a": {"sum": 1.0, "count": 0, "bytes": 1}}}, {"schema": 2}, {"tokens": True},
        {"loss": 1e308, "lr": 1e308},
    ],
)  # fmt: skip
def test_the_short_way_lets_nothing_pass_that_the_long_way_refuses(wrong, monkeypatch):
    record = {**ScalingPoint(run_id="r", tokens=5, loss=2.5).to_dict(), **wrong}

    def outcome():
        try:
            return ScalingPoint.from_dict(record)
        except PointError as error:
            return str(error)

    short = outcome()
    monkeypatch.setattr(records, "settled_fields", lambda *_, **__: None)
    assert outcome() == short
