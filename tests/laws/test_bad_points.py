"""Points no law can use, through every door: each is refused with its row, and nothing is dropped in silence."""

import json
import math
import zlib
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_bootstrap import ScalingLaw, compare_forms
from hf_bootstrap.errors import FitError, LawError, PointError
from hf_bootstrap.laws.points import Points

from .grids import demo_design, measured

NAN, INF = float("nan"), float("inf")
ROWS = 8
IN_ONE_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sound():
    """Eight rows of two bases, as a table of plain lists."""
    return {
        "run_id": [f"run-{i}" for i in range(ROWS)],
        "base_tokens": [1000 if i % 2 else 3000 for i in range(ROWS)],
        "tokens": [100 * 2**i for i in range(ROWS)],
        "loss": [4.0 - 0.2 * i for i in range(ROWS)],
    }


def as_csv(table, path):
    """Cells as people write them: no quotes, nothing for None."""
    lines = [",".join(table)]
    lines += [",".join("" if cell is None else str(cell) for cell in row) for row in zip(*table.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def as_jsonl(table, path):
    """Lines with right checksums, whatever they hold; NaN in the spelling of Python's json."""
    lines = []
    for row in zip(*table.values(), strict=True):
        record = {**dict(zip(table, row, strict=True)), "schema": 1}
        bare = json.dumps(record, sort_keys=True, separators=(",", ":"))
        lines.append(json.dumps({**record, "crc32": zlib.crc32(bare.encode())}, sort_keys=True, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")
    return path


DOORS = {
    "dict of lists": lambda table, folder: table,
    "dict of arrays": lambda table, folder: {name: np.array(column, dtype=object) for name, column in table.items()},
    "DataFrame": lambda table, folder: pd.DataFrame({n: pd.Series(c, dtype=object) for n, c in table.items()}),
    "CSV": lambda table, folder: as_csv(table, folder / "points.csv"),
    "JSONL": lambda table, folder: as_jsonl(table, folder / "points.jsonl"),
}
each_door = pytest.mark.parametrize("door", DOORS)


@each_door
def test_sound_points_come_through_every_door_alike(door, tmp_path):
    points = Points.read(DOORS[door](sound(), tmp_path))
    assert points.loss.tolist() == sound()["loss"]
    assert points.tokens.tolist() == sound()["tokens"]
    assert points.run_id.tolist() == sound()["run_id"]
    assert points.left_out == ()


BAD_LOSSES = (NAN, INF, -INF, 0, 0.0, -0.0, -1.5, True, False, "diverged", "", None, 10**400)
BAD_COUNTS = (NAN, INF, -1, True, "many", None)


@each_door
@IN_ONE_FOLDER
@given(
    row=st.integers(0, ROWS - 1), bad=st.sampled_from(BAD_LOSSES) | st.floats(max_value=0) | st.text("xyz", max_size=4)
)
def test_a_loss_no_run_has_is_refused_with_its_row(door, tmp_path, row, bad):
    table = sound()
    table["loss"][row] = bad
    with pytest.raises(PointError, match=rf"[Rr]ow {row + 1} |line {row + 1}: "):
        Points.read(DOORS[door](table, tmp_path))


@each_door
@pytest.mark.parametrize("column", ["tokens", "base_tokens"])
@pytest.mark.parametrize("bad", BAD_COUNTS, ids=repr)
def test_a_count_no_run_has_is_refused_with_its_row(door, tmp_path, column, bad):
    table = sound()
    table[column][4] = bad
    if door == "JSONL" and bad is None and column == "base_tokens":
        pytest.skip("a record without base_tokens is from scratch, says docs/formats.md")
    with pytest.raises(PointError, match=r"[Rr]ow 5 |line 5: "):
        Points.read(DOORS[door](table, tmp_path))


@each_door
def test_rows_without_a_stage_are_kept_or_named(door, tmp_path):
    table = sound()
    table["tokens"][2] = 0
    table["base_tokens"][5] = 0
    points = Points.read(DOORS[door](table, tmp_path))
    assert len(points) == ROWS - 1
    assert points.left_out == ("1 row left out: 0 tokens, a model before its second stage has no place here.",)
    assert points.from_scratch.tolist() == [False] * 4 + [True] + [False] * 2
    law = ScalingLaw("multiplicative", resamples=5).fit(DOORS[door](table, tmp_path))
    assert any("0 tokens" in sentence for sentence in law.checks_)
    assert any("1 from-scratch row left out" in sentence for sentence in law.checks_)
    assert law.n_points_ == ROWS - 2


@each_door
def test_a_measurement_given_twice_is_refused_or_named(door, tmp_path):
    table = {name: [*column, column[3]] for name, column in sound().items()}
    if door == "JSONL":  # what a resumed run leaves behind
        points = Points.read(DOORS[door](table, tmp_path))
        assert (len(points), len(points.left_out)) == (ROWS, 1)
        return
    with pytest.raises(PointError, match="Rows 4 and 9 are both run 'run-3' at 800 tokens"):
        Points.read(DOORS[door](table, tmp_path))


def test_copies_without_names_are_pointed_out():
    table = {name: [*column, *column[2:4]] for name, column in sound().items() if name != "run_id"}
    law = ScalingLaw("multiplicative", resamples=5).fit(table)
    assert any("2 rows repeat another to the last digit (row 9 of row 3)" in sentence for sentence in law.checks_)


@each_door
def test_fewer_points_than_parameters_are_refused_with_both_numbers(door, tmp_path):
    table = {name: column[:5] for name, column in sound().items()}
    with pytest.raises(FitError, match=r"5 points cannot determine the 5 parameters of 'bootstrap'"):
        ScalingLaw().fit(DOORS[door](table, tmp_path))


@each_door
@pytest.mark.parametrize(("column", "lost"), [("base_tokens", "alpha1"), ("tokens", "alpha2")])
def test_a_constant_column_is_named_with_what_it_hides(door, tmp_path, column, lost):
    table = sound()
    table[column] = [500] * ROWS
    law = ScalingLaw("multiplicative", resamples=5).fit(DOORS[door](table, tmp_path))
    assert any(f"{column} has 1 level" in sentence for sentence in law.checks_)
    assert law.params_[lost] is None
    assert law.interval(lost) is None


def test_a_constant_loss_has_no_certain_looking_law():
    law = ScalingLaw("multiplicative", resamples=5).fit({**sound(), "loss": [3.0] * ROWS})
    assert law.predict(base_tokens=1000, tokens=800).value == pytest.approx(3.0)
    assert law.checks_


@pytest.mark.parametrize("door", ["dict of lists", "DataFrame", "CSV"])
def test_mixed_units_are_named_with_their_rows(door, tmp_path):
    table = {name: list(column) for name, column in measured(demo_design(), noise=0.003).items()}
    mixed = {**table, "tokens": [int(t) // (1000 if i in (4, 9) else 1) for i, t in enumerate(table["tokens"])]}
    law = ScalingLaw("multiplicative", resamples=5).fit(DOORS[door](mixed, tmp_path))
    assert any("are millions mixed with billions?" in sentence for sentence in law.checks_)
    bits = {**table, "loss": [x / math.log(2) if i == 6 else x for i, x in enumerate(table["loss"])]}
    law = ScalingLaw(resamples=5).fit(DOORS[door](bits, tmp_path))
    assert any("(row 7) are off by the factor between bits and nats" in sentence for sentence in law.checks_)


@each_door
def test_unknown_names_are_answered_with_the_nearest(door, tmp_path):
    points = DOORS[door](sound(), tmp_path)
    with pytest.raises(LawError, match=r"no form 'boostrap'\. Did you mean 'bootstrap'"):
        ScalingLaw("boostrap").fit(points)
    with pytest.raises(LawError, match=r"no form 'total-tokens'\. Did you mean 'total_tokens'"):
        compare_forms(points, ["total-tokens"])
    with pytest.raises(PointError, match="Did you mean 'base_tokens'"):
        Points.read(points, columns={"base_token": "D1"})
    with pytest.raises(PointError, match=r"no column 'tokenz' to use as tokens\. Did you mean 'tokens'"):
        Points.read(points, columns={"tokens": "tokenz"})
    with pytest.raises(PointError, match="needs the column n_params"):
        ScalingLaw("chinchilla").fit(points)


CELLS = st.sampled_from(
    ["", "1", "-1", "nan", "inf", "1e999", "0x10", "1_000", "1,5", '"', "\ufeff", "١٢", "=1+1", "9" * 5000]
)


@IN_ONE_FOLDER
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4), noise=st.binary(max_size=20))
def test_whatever_a_csv_file_holds_the_answer_is_points_or_an_error_of_ours(tmp_path, rows, noise):
    from hf_bootstrap.errors import BootstrapError

    text = "base_tokens,tokens,loss\n" + "\n".join(",".join(row) for row in rows)
    (tmp_path / "p.csv").write_bytes(text.encode() + noise)
    try:
        points = Points.read(tmp_path / "p.csv")
    except BootstrapError:
        return
    assert np.all(np.isfinite(points.loss) & (points.loss > 0) & (points.tokens > 0))


THINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(np.float32(2)),
    lambda inner: st.lists(inner, max_size=3) | st.just(np.ones((2, 2))),
    max_leaves=6,
)


@settings(deadline=None)
@given(columns=st.dictionaries(st.sampled_from(["tokens", "loss", "base_tokens", "run_id", "phase"]), THINGS))
def test_whatever_a_mapping_holds_the_answer_is_points_or_a_point_error(columns):
    try:
        points = Points.read(columns)
    except PointError:
        return
    assert np.all(np.isfinite(points.loss) & (points.loss > 0) & (points.tokens > 0))


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6)


@IN_ONE_FOLDER
@given(
    ids=st.lists(
        IDS | st.sampled_from(["007", "1e5", " a", 'q"', "a,b", "a\nb", "a\rb", "nan", "None"]), min_size=8, max_size=8
    )
)
def test_a_law_and_its_points_agree_whatever_the_runs_are_called(tmp_path, ids):
    points = Points.read({**sound(), "base_run_id": ids})
    (tmp_path / "p.csv").write_text(points.to_csv(), newline="")
    assert Points.read(tmp_path / "p.csv").digest() == points.digest()


@pytest.mark.parametrize("word", ["END", "final"])
def test_a_phase_that_is_none_is_refused_and_not_called_undecayed(word):
    rows = {**sound(), "phase": ["end", word, *["stable"] * (len(sound()["loss"]) - 2)]}
    with pytest.raises(PointError, match=f"Row 2 has phase '{word}', which is none of a learning rate"):
        Points.read(rows)
    with pytest.raises(PointError, match="Did you mean 'end'" if word == "END" else "Known: decay, end"):
        Points.read(rows)
    assert len(Points.read({**rows, "keep": [1, 0, *[1] * (len(rows["loss"]) - 2)]}, where={"keep": 1})) == 1


def test_columns_named_twice_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("tokens,loss,loss\n1,2,3\n")
    with pytest.raises(PointError, match="2 columns named 'loss'"):
        Points.read(tmp_path / "p.csv")
    frame = pd.DataFrame([[1, 2.0, 3.0]], columns=["tokens", "loss", "loss"])
    with pytest.raises(PointError, match="2 columns named 'loss'"):
        Points.read(frame)


def test_a_column_that_is_none_is_named():
    for wrong in (5, "abc", None, 2.0, np.array(5.0)):
        with pytest.raises(PointError, match="The column 'loss' is"):
            Points.read({"tokens": [1, 2], "loss": wrong})


def test_names_that_are_no_mapping_are_refused():
    for wrong in ("tokens=D", ["tokens"], 5):
        with pytest.raises(PointError, match="is not a mapping from our names"):
            Points.read(sound(), columns=wrong)
        with pytest.raises(PointError, match="in the manner of where="):
            Points.read(sound(), where=wrong)
    for wrong in ({"tokens": 5}, {5: "tokens"}):
        with pytest.raises(PointError, match="no column"):
            Points.read(sound(), columns=wrong)


@pytest.mark.parametrize("bad", [2, 1.0001, 50, 0, Decimal("1.5")])
def test_a_share_that_no_mixture_has_is_refused_with_its_row(bad):
    shares = [0.5, 1, 0.25, 1e-3, 1.0, 0.5, 0.5, 0.5]
    assert Points.read({**sound(), "mixture_ratio": shares}).mixture_ratio.max() == 1
    with pytest.raises(PointError, match=r"Row 3 has mixture_ratio .*; it must be a number, positive and at most 1"):
        Points.read({**sound(), "mixture_ratio": [*shares[:2], bad, *shares[3:]]})


def test_decimals_are_numbers(tmp_path):
    table = {**sound(), "loss": [Decimal(str(x)) for x in sound()["loss"]], "base_tokens": [Decimal(0)] * ROWS}
    points = Points.read(table)
    assert points.loss.tolist() == sound()["loss"]
    assert points.from_scratch.all()
    pd.DataFrame(table).to_parquet(tmp_path / "p.parquet")
    assert Points.read(tmp_path / "p.parquet").loss.tolist() == sound()["loss"]
    for bad in ("NaN", "sNaN", "Infinity", "-1", "1e400"):
        with pytest.raises(PointError, match="Row 1 has loss"):
            Points.read({**table, "loss": [Decimal(bad), *table["loss"][1:]]})


def test_a_form_whose_column_is_missing_is_named_and_the_others_are_compared():
    found = compare_forms(sound(), ["multiplicative", "chinchilla"])
    assert [score.form for score in found.scores] == ["multiplicative"]
    assert "chinchilla is not compared: it reads n_params, which these points lack." in found.notes
