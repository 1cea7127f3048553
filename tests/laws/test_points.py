"""Points in: every way of giving them, and everything a law must not see."""

import dataclasses
import hashlib
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_bootstrap import FORMS, ScalingPoint
from hf_bootstrap.errors import PointError, StoreError
from hf_bootstrap.laws.points import Points
from hf_bootstrap.store import append_point

from .grids import demo_design, measured


def point(base_tokens=1000, tokens=500, loss=2.0, **changes):
    given_fields = {"run_id": f"run-{base_tokens}-{tokens}", "method": "continue", **changes}
    return ScalingPoint(base_tokens=base_tokens, tokens=tokens, loss=loss, **given_fields)


def same(a, b):
    return a.digest() == b.digest()


def test_every_way_of_giving_points_gives_the_same_columns(tmp_path):
    table = measured(demo_design(), noise=0.01)
    points = Points.read(table)
    (tmp_path / "points.csv").write_text(points.to_csv())
    rows = pd.DataFrame(table).astype(object).to_dict("records")
    records = [ScalingPoint(method="continue", **row) for row in rows]
    for record in records:
        append_point(tmp_path / "points.jsonl", record)
    assert same(Points.read(tmp_path / "points.csv"), points)
    assert same(Points.read(pd.DataFrame(table)), points)
    pd.DataFrame(table).to_parquet(tmp_path / "points.parquet")
    assert same(Points.read(tmp_path / "points.parquet"), points)
    assert same(Points.read(points), points)
    from_records = Points.read(records)
    assert same(Points.read(str(tmp_path / "points.jsonl")), from_records)
    assert from_records.records == tuple(records)
    np.testing.assert_array_equal(from_records.loss, points.loss)
    np.testing.assert_array_equal(from_records.base_run_id, points.base_run_id)


def test_n_is_the_non_embedding_count():
    points = Points.read([point(n_params=100, n_params_non_embedding=80)])
    assert points.n_params.tolist() == [80]


def test_rows_that_are_not_used_are_counted_with_the_reason():
    rows = [
        point(), point(tokens=600), point(tokens=0, loss=9.0), point(tokens=100, phase="stable"),
        point(tokens=200, phase="stable"),
    ]  # fmt: skip
    points = Points.read(rows)
    assert points.tokens.tolist() == [500, 600]
    assert points.left_out == (
        "2 rows left out: measured before their run's learning rate had decayed.",
        "1 row left out: 0 tokens, a model before its second stage has no place here.",
    )


def test_several_methods_are_refused_and_where_chooses_one_keeping_scratch():
    rows = [point(), point(tokens=600, method="stack"), point(base_tokens=0, method="scratch")]
    with pytest.raises(PointError, match=r"several methods: continue, stack.*where=\{'method': 'continue'\}"):
        Points.read(rows)
    chosen = Points.read(rows, where={"method": "stack"})
    assert chosen.method.tolist() == ["stack", "scratch"]
    assert chosen.from_scratch.tolist() == [False, True]
    assert "1 row left out by where" in chosen.left_out[0]


def test_scratch_rows_of_another_size_or_domain_do_not_stay_beside_a_method():
    rows = [
        point(n_params_non_embedding=200, domain="docs"),
        point(base_tokens=0, method="scratch", n_params_non_embedding=200, domain="docs"),
        point(base_tokens=0, tokens=600, method="scratch", n_params_non_embedding=100, domain="docs"),
        point(base_tokens=0, tokens=700, method="scratch", n_params_non_embedding=200, domain="code"),
    ]
    points = Points.read(rows)
    assert points.tokens.tolist() == [500, 500]
    assert points.left_out == ("2 from-scratch rows left out: another domain or model size.",)


def test_where_takes_lists_and_numbers_and_names_unknown_columns():
    rows = [point(seed=1), point(tokens=600, seed=2), point(tokens=700, seed=3)]
    assert len(Points.read(rows, where={"seed": [1, 2]})) == 2
    assert len(Points.read(rows, where={"seed": "3"})) == 1
    assert len(Points.read(rows, where={"tokens": 600})) == 1
    with pytest.raises(PointError, match="Did you mean 'method'"):
        Points.read(rows, where={"metod": "stack"})


@pytest.mark.parametrize(
    "loss", [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 0, True, "2.0", "diverged", None, 1j]
)
def test_a_loss_no_law_can_use_is_refused_with_its_row(loss):
    with pytest.raises(PointError, match="Row 3 has loss"):
        Points.read({"tokens": [1, 2, 3], "loss": [2.0, 2.0, loss]})


@given(st.integers(0, 4), st.one_of(st.floats(max_value=0), st.just(float("nan")), st.booleans(), st.text(), st.none()))
def test_no_bad_loss_passes_wherever_it_stands(row, loss):
    losses = [2.0, 2.1, 2.2, 2.3, 2.4]
    losses[row] = loss
    with pytest.raises(PointError, match=f"Row {row + 1} has loss"):
        Points.read({"tokens": [1, 2, 3, 4, 5], "loss": losses})


def test_a_bad_loss_in_a_row_that_is_not_used_does_not_matter():
    table = {"tokens": [1, 2], "loss": [2.0, float("nan")], "method": ["continue", "stack"]}
    assert len(Points.read(table, where={"method": "continue"})) == 1


@pytest.mark.parametrize("column", ["tokens", "base_tokens", "n_params"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "12", False])
def test_a_count_that_cannot_be_is_refused_with_its_row(column, value):
    table = {"tokens": [5, 6], "base_tokens": [5, 6], "n_params": [5, 6], "loss": [2.0, 2.0]}
    table[column][1] = value
    with pytest.raises(PointError, match=f"Row 2 has {column}"):
        Points.read(table)


def test_a_measurement_given_twice_is_refused_by_its_rows():
    with pytest.raises(PointError, match=r"Rows 1 and 3 are both run 'run-1000-500' at 500 tokens"):
        Points.read([point(), point(tokens=600), point(loss=2.5)])


def test_a_broken_line_is_refused_by_its_number_and_a_torn_last_one_is_named(tmp_path):
    path = tmp_path / "points.jsonl"
    for tokens in (500, 600, 700):
        append_point(path, point(tokens=tokens))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    points = Points.read(path)
    assert len(points) == 2
    (note,) = points.left_out
    assert note.startswith("1 row left out: line 3 of points.jsonl: The line was cut short by a crash")
    append_point(path, point(tokens=700))  # the run was resumed: the tail is closed and the point measured again
    append_point(path, point(tokens=600))
    again = Points.read(path)
    assert (len(again), len(again.left_out)) == (3, 2)
    path.write_bytes(whole.replace(b'"loss":2.0', b'"loss":1.0', 1))
    with pytest.raises(PointError, match=r"line 1: .*changed after it was written"):
        Points.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("tokens,loss\n1,2,3\n", "row 1 has 3 cells"),
        ("D,loss\n1,2\n", "no column 'tokens'"),
        ("tokens,loss\n", "No row is left"),
        ("tokens,loss\n1,\n", "Row 1 has loss None"),
        ("tokens,loss\n1,abc\n", "Row 1 has loss 'abc'"),
    ],
)
def test_a_table_that_is_not_one_is_refused(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(PointError, match=message):
        Points.read(tmp_path / "p.csv")


def test_files_and_things_that_hold_no_points_are_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        Points.read(tmp_path / "none.csv")
    with pytest.raises(StoreError, match="cannot be read"):
        Points.read(tmp_path / "none.jsonl")
    for thing in (7, None, [1, 2], ["a"]):
        with pytest.raises(PointError, match="Points cannot be read from"):
            Points.read(thing)
    with pytest.raises(PointError, match="differ in length"):
        Points.read({"tokens": [1, 2], "loss": [2.0]})


def test_columns_are_renamed_and_a_wrong_name_is_explained():
    table = {"D2": [1, 2], "L": [2.0, 1.9]}
    assert Points.read(table, columns={"tokens": "D2", "loss": "L"}).tokens.tolist() == [1, 2]
    with pytest.raises(PointError, match=r"no column 'D3' to use as tokens\. Known: D2, L"):
        Points.read(table, columns={"tokens": "D3", "loss": "L"})
    with pytest.raises(PointError, match="Did you mean 'tokens'"):
        Points.read(table, columns={"token": "D2"})


def test_a_form_that_needs_a_column_says_which():
    points = Points.read({"tokens": [1, 2], "loss": [2.0, 1.9]})
    with pytest.raises(PointError, match="needs the column n_params"):
        points.logs(FORMS["chinchilla"])


def test_the_digest_knows_every_number_and_id():
    table = measured(demo_design())
    points = Points.read(table)
    assert not same(points, dataclasses.replace(points, loss=points.loss * (1 + 1e-15)))
    assert not same(points, points.take(np.arange(len(points)) > 0))


def test_a_file_that_is_not_parquet_is_refused_and_its_columns_can_be_named(tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"tokens,loss")
    with pytest.raises(StoreError, match="cannot be read as Parquet"):
        Points.read(tmp_path / "p.parquet")
    pd.DataFrame({"D2": [1, 2], "L": [2.0, 1.9]}).to_parquet(tmp_path / "q.parquet")
    assert Points.read(tmp_path / "q.parquet", columns={"tokens": "D2", "loss": "L"}).loss.tolist() == [2.0, 1.9]


@pytest.mark.slow
def test_a_million_rows_are_read_in_ten_seconds(tmp_path):
    """The issue's bound: 10 s of one core."""
    n = 1_000_000
    rng = np.random.default_rng(0)
    table = {
        "tokens": rng.integers(1, 10**9, n),
        "base_tokens": rng.integers(1, 10**9, n),
        "loss": rng.uniform(2, 3, n),
    }
    pd.DataFrame(table).to_parquet(tmp_path / "p.parquet")
    began = time.process_time()
    assert len(Points.read(tmp_path / "p.parquet")) == n
    assert time.process_time() - began < 10


def test_the_digest_is_that_of_the_file_format():
    """By hand from docs/formats.md, section 7."""
    points = Points.read({"tokens": [131_072, 10**16], "loss": [3.25, 0.1], "run_id": ["a'b", None]})
    lines = ["tokens=131072.0", "tokens=1e+16", "loss=3.25", "loss=0.1", 'run_id="a\'b"', "run_id=None"]
    assert points.digest() == hashlib.sha256("\n".join(lines).encode()).hexdigest()
