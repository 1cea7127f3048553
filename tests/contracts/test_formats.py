"""`docs/formats.md` specifies what the code does: every field, its type, its default, and the worked example."""

import dataclasses
import hashlib
import json
import re
import typing
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from hf_bootstrap import ScalingLaw, store
from hf_bootstrap.errors import PointError, RecordError
from hf_bootstrap.records import PHASES, SCHEMA, RunSpec, ScalingPoint
from hf_bootstrap.sealing import canonical_json, seal, unseal
from hf_bootstrap.store.points_file import LONGEST_LINE

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\d)\..*?\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
WORDS = {str: "text", int: "count", float: "number", bool: "flag", Mapping: "object", tuple: "list"}


def rows(section):
    """Field name -> (type, default, meaning) of the table of a section."""
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| (.+) \|$", SECTIONS[section], re.MULTILINE)
    return {name: (kind, default, meaning) for name, kind, default, meaning in found}


def kind_of(hint):
    options = [hint]
    if type(None) in typing.get_args(hint):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
    return WORDS[typing.get_origin(options[0]) or options[0]]


def default_of(field):
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else json.dumps(field.default)


@pytest.mark.parametrize(("section", "cls"), [("2", ScalingPoint), ("5", RunSpec)])
def test_every_field_is_specified_with_its_type_and_default(section, cls):
    hints = typing.get_type_hints(cls)
    coded = {field.name: (kind_of(hints[field.name]), default_of(field)) for field in dataclasses.fields(cls)}
    assert {name: (kind, default) for name, (kind, default, _) in rows(section).items()} == coded


def test_the_phases_and_the_version_are_specified():
    assert re.findall(r"`(\w+)`", rows("2")["phase"][2])[: len(PHASES)] == list(PHASES)
    assert f"`schema` {SCHEMA}." in TEXT
    assert store.COMPLETE in SECTIONS["6"]


def test_the_worked_example_is_right():
    record, canonical, line = re.findall(r"```\w+\n(.*?)\n```", SECTIONS["3"], re.DOTALL)
    (crc,) = re.findall(r"CRC-32 is (\d+)", SECTIONS["3"])
    assert canonical_json(json.loads(record)) == canonical
    assert zlib.crc32(canonical.encode()) == int(crc)
    assert seal(json.loads(record)) == line
    assert ScalingPoint.from_dict(unseal(line)) == ScalingPoint(run_id="run-1", tokens=131_072, loss=3.25)


def test_a_field_that_may_be_null_may_be_left_out_and_no_other():
    point = ScalingPoint(run_id="run-1", tokens=1, loss=3.25)
    for name, (_, default, _) in rows("2").items():
        record = point.to_dict()
        if default == "null":
            assert ScalingPoint.from_dict({**record, name: None}) == point
        else:
            with pytest.raises(PointError):
                ScalingPoint.from_dict({**record, name: None})


def test_limits_are_those_specified():
    (line,) = re.findall(r"longer than ([\d,]+) bytes", SECTIONS["3"])
    assert int(line.replace(",", "")) == LONGEST_LINE
    assert ScalingPoint(run_id="r", tokens=2**63 - 1, loss=1.0).tokens == 2**63 - 1
    with pytest.raises(RecordError):
        ScalingPoint(run_id="r", tokens=2**63, loss=1.0)


def test_the_name_of_a_run_is_the_one_specified():
    spec = RunSpec(
        method="a b", domain="x", seed=0, data="d", eval_sets={"x": "e"}, tokens=128, peak_lr=1.0, batch_size=1,
        sequence_length=128, start="r/c",
    )  # fmt: skip
    digest = hashlib.sha256(canonical_json(spec.to_dict()).encode()).hexdigest()[:10]
    assert spec.run_id == f"a_b-x-0-128-{digest}"
    later = {"lora", "optimizer", "autocast"}
    assert set(spec.to_dict()) == set(rows("5")) - later
    assert later == set(re.findall(r"`(\w+)`", re.search(r"except that (.*) MUST be left out", SECTIONS["5"])[1]))
    for change in ({"lora": {"r": 8}}, {"optimizer": "grow"}, {"autocast": "bf16"}):
        changed = dataclasses.replace(spec, **change)
        assert set(changed.to_dict()) == set(spec.to_dict()) | set(change)
        assert changed.run_id != spec.run_id


def test_every_field_of_a_saved_law_is_specified(tmp_path):
    ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658).save_pretrained(
        tmp_path
    )
    law = json.loads((tmp_path / "law.json").read_text())
    specified = rows("7")
    assert set(law) == set(specified)
    words = {"text": str, "count": int, "number": float, "flag": bool, "object": dict, "list": list}
    for name, (kind, _, meaning) in specified.items():
        assert type(law[name]) is words[kind] or (law[name] is None and "null" in meaning), name
    assert set(law["replicates"]) == set(re.findall(r"`(\w+)` \(", specified["replicates"][2]))
