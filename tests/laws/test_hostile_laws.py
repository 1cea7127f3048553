"""Law files that were cut, changed, forged or never were one: each is refused as such, or is the law it says."""

import copy
import json
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hf_bootstrap import ScalingLaw
from hf_bootstrap.errors import LawFileError
from hf_bootstrap.laws.law_file import law_text, read_law
from hf_bootstrap.laws.law_record import law_to_record
from hf_bootstrap.sealing import canonical_json

from .grids import demo_design, measured

IN_ONE_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a small law with replicates, warnings and parameters that cannot be told apart."""
    folder = tmp_path_factory.mktemp("law")
    tokens = np.geomspace(1e5, 1e7, 8)
    rows = {"base_tokens": tokens, "tokens": tokens / 10, "loss": 1.5 + 300 * tokens**-0.4}
    ScalingLaw("multiplicative", resamples=3).fit(rows).save_pretrained(folder)
    return (folder / "law.json").read_text()


@pytest.fixture(scope="module")
def whole(written):
    return json.loads(written)


def sealed(record):
    bare = {name: value for name, value in record.items() if name != "crc32"}
    return json.dumps({**bare, "crc32": zlib.crc32(canonical_json(bare).encode())})


def read(text, folder):
    path = folder / "law.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return read_law(path)


def test_a_law_cut_at_any_byte_is_refused(tmp_path):
    ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8).save_pretrained(tmp_path)
    content = (tmp_path / "law.json").read_bytes().rstrip()
    for end in range(len(content)):
        with pytest.raises(LawFileError):
            read(content[:end], tmp_path)
    assert read(content, tmp_path).form.name == "total_tokens"


@IN_ONE_FOLDER
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_law_with_any_byte_changed_is_the_same_law_or_refused(written, whole, tmp_path, place, byte):
    content = bytearray(written.encode())
    content[int(place * len(content))] = byte
    try:
        law = read(bytes(content), tmp_path)
    except LawFileError:
        return
    assert law_to_record(law) == {name: value for name, value in whole.items() if name != "crc32"}


def places(record, path=()):
    """The path of every value in a record."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(record, path, value):
    new = copy.deepcopy(record)
    at = new
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return new


BAD = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 10**30, 10**400, "", "x", "huber", [], [[]], {}, {"a": None}, [1, "2"],
    [None], [True], ["bootstrap"], [1e308] * 4,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(IN_ONE_FOLDER, max_examples=300)
@given(data=st.data())
def test_a_law_forged_with_a_right_checksum_says_what_it_holds_or_is_refused(whole, tmp_path, data):
    path = data.draw(st.sampled_from(list(places(whole))))
    forged = replaced(whole, path, data.draw(st.sampled_from(BAD) | JSON))
    try:
        law = read(sealed(forged), tmp_path)
    except LawFileError:
        return
    told = law_to_record(law)
    for shown in ("formula", "units", "versions", "params"):  # for people; not part of the law
        told[shown] = forged[shown]
    held = {name: value for name, value in forged.items() if name != "crc32"}
    # A whole number is the float it stands for.
    assert json.loads(json.dumps(told), parse_int=float) == json.loads(json.dumps(held), parse_int=float)


def test_a_value_of_the_wrong_type_is_refused_in_every_field(whole, tmp_path):
    for name in whole:
        if name == "crc32":
            continue
        wrong = {} if isinstance(whole[name], list | str | int) or whole[name] is None else "x"
        with pytest.raises(LawFileError):
            read(sealed({**whole, name: wrong}), tmp_path)
        with pytest.raises(LawFileError):
            read(sealed({key: value for key, value in whole.items() if key != name}), tmp_path)
    with pytest.raises(LawFileError, match="unknown"):
        read(sealed({**whole, "thetta": [1.0]}), tmp_path)


def test_a_law_that_was_changed_by_hand_is_named_so(written, whole, tmp_path):
    theta = whole["theta"][0]
    with pytest.raises(LawFileError, match="was changed after it was written"):
        read(written.replace(repr(theta), repr(theta + 1e-15 + 1e-15 * abs(theta)), 1), tmp_path)
    spaced = json.dumps(dict(reversed(list(whole.items()))), indent=7)
    assert read(spaced, tmp_path).theta[0] == theta


DEEP = 100_000
STRANGE = {
    "nothing": "",
    "of the next version": json.dumps({"kind": "law", "schema": 2, "versions": {"hf_bootstrap": "9.0"}}),
    "of a version in words": json.dumps({"kind": "law", "schema": "1"}),
    "of version true": json.dumps({"kind": "law", "schema": True}),
    "deep lists": '{"kind": "law", "schema": 1, "theta": ' + "[" * DEEP + "]" * DEEP + "}",
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "open for ever": "[" * DEEP,
    "NaN": '{"kind": "law", "schema": 1, "theta": [NaN]}',
    "Infinity": '{"kind": "law", "schema": 1, "theta": [-Infinity]}',
    "a number of 5000 digits": '{"kind": "law", "schema": ' + "1" * 5000 + "}",
    "an exponent no float has": '{"kind": "law", "schema": 1, "delta": 1e99999, "crc32": 1}',
    "a key twice": '{"kind": "law", "kind": "law", "schema": 1}',
    "a byte order mark": "\ufeff{}",
    "half a surrogate": '{"kind": "law", "schema": 1, "form": "\ud800"}',
    "an escaped half": '{"kind": "law", "schema": 1, "form": "\\ud800", "crc32": 1}',
    "a list": "[1, 2]",
    "a NUL": '{"kind": "law"\x00}',
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_files_are_refused(text, tmp_path):
    with pytest.raises(LawFileError) as caught:
        read(text, tmp_path)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(("field", "item"), [("theta", 0.5), ("warnings", None), ("parameters", "A"), ("moves", [])])
def test_lists_of_a_million_are_refused_in_few_words(field, item, whole, tmp_path):
    with pytest.raises(LawFileError) as caught:
        read(sealed({**whole, field: [item] * 1_000_000}), tmp_path)
    assert len(str(caught.value)) < 1200


def test_a_version_says_who_wrote_it(tmp_path):
    with pytest.raises(LawFileError, match=r"schema 2; this release reads 1.*9\.0"):
        read(STRANGE["of the next version"], tmp_path)


@example(text="\x00")
@given(text=st.text(max_size=40) | st.binary(max_size=40))
@IN_ONE_FOLDER
def test_noise_is_no_law(tmp_path, text):
    with pytest.raises(LawFileError):
        read(text, tmp_path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "law.json").mkdir()
    with pytest.raises(LawFileError, match="cannot be read"):
        ScalingLaw.from_pretrained(tmp_path)


def test_every_law_that_is_written_is_read_again(tmp_path):
    """Also one whose parameters ran away: exp(theta) is no number then, theta is."""
    table = measured(demo_design(scratch=False), noise=0.003)
    for form in ("effective_transfer", "hybrid"):
        law = ScalingLaw(form, resamples=5).fit(table)
        (tmp_path / form).mkdir()
        (tmp_path / form / "law.json").write_text(law_text(law.fitted))
        again = read_law(tmp_path / form / "law.json")
        assert law_to_record(again) == law_to_record(law.fitted)
