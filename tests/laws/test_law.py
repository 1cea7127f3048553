"""The face: fit, read, ask, keep."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_bootstrap import ScalingLaw, ScalingPoint
from hf_bootstrap.errors import FitError, LawError, LawFileError, NotFittedError, PredictionError
from hf_bootstrap.laws.terms import LogLinear

from .grids import TRUTH, demo_design, measured


@pytest.fixture(scope="module")
def law():
    return ScalingLaw(resamples=120).fit(measured(demo_design(trunks=6), noise=0.003))


@pytest.fixture(scope="module")
def small():
    """One trunk, four bases: the size of the demo."""
    return ScalingLaw().fit(measured(demo_design(), noise=0.003))


def test_the_constructor_only_stores_and_fit_returns_the_law():
    law = ScalingLaw("total_tokens", objective="lsq", delta=0.5)
    assert (law.form, law.objective, law.delta) == ("total_tokens", "lsq", 0.5)
    assert law.fit(measured(demo_design(), noise=0.01)) is law


def test_learnt_things_end_in_an_underscore(law):
    assert list(law.params_) == ["A", "alpha1", "alpha2", "alpha3", "E", "A_scratch", "alpha_scratch"]
    assert law.params_ == pytest.approx(TRUTH, rel=0.3)
    assert all(error > 0 for error in law.stderr_.values())
    assert law.n_points_ == 90
    assert law.intervals_ == {name: law.interval(name) for name in TRUTH}
    published = ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8)
    assert published.intervals_ == {"A": None, "alpha": None, "E": None}


def test_intervals_hold_the_truth_and_widen_with_the_level(law):
    for name, true in TRUTH.items():
        low, high = law.interval(name)
        assert low < true < high
        inner = law.interval(name, level=0.5)
        assert low < inner[0] < inner[1] < high
    with pytest.raises(LawError, match="Did you mean 'alpha3'"):
        law.interval("alph3")


def test_predictions_keep_their_shape_and_carry_an_interval(law):
    one = law.predict(base_tokens=819_200, tokens=262_144)
    assert isinstance(one.value, float)
    assert one.low < one.value < one.high
    assert one.reach == 0.0
    many = law.predict(base_tokens=[[131_072], [819_200]], tokens=[131_072, 262_144, 524_288])
    assert many.value.shape == many.low.shape == many.high.shape == many.reach.shape == (2, 3)
    assert many.value[1, 1] == pytest.approx(one.value, rel=1e-14)


def test_a_law_fitted_with_scratch_rows_predicts_from_scratch(law):
    truth = ScalingLaw.from_params("bootstrap", **TRUTH)
    found = law.predict(base_tokens=0, tokens=262_144)
    assert found.low < truth.predict(base_tokens=0, tokens=262_144).value < found.high


def test_predictions_far_away_are_refused_unless_asked(law):
    near = law.predict(base_tokens=819_200, tokens=5_242_880)
    assert near.reach == pytest.approx(1.0)
    with pytest.raises(PredictionError, match=r"2\.5 decades beyond the data .*tokens 131k to 524k"):
        law.predict(base_tokens=819_200, tokens=524_288 * 10**2.5)
    assert law.predict(base_tokens=819_200, tokens=1e12, extrapolate=True).reach > 6


def test_exponents_far_away_are_refused_unless_asked(law):
    with pytest.raises(PredictionError, match=r"11\.7 decades beyond the data"):
        law.exponent(1e18)
    found = law.exponent([1e6, 1e18], extrapolate=True)
    assert found.value[1] < 0
    assert found.reach[1] > 11
    steep = ScalingLaw.from_params("bootstrap", A=50.0, alpha1=0.3, alpha2=0.3, alpha3=0.02, E=1.0)
    with pytest.raises(PredictionError, match=r"exponent of tokens is -0\.0"):
        steep.exponent(1e7)


def test_where_the_formula_says_loss_rises_it_refuses_beyond_the_data():
    steep = ScalingLaw.from_params("bootstrap", A=50.0, alpha1=0.3, alpha2=0.3, alpha3=0.02, E=1.0)
    with pytest.raises(PredictionError, match=r"exponent of tokens is -0\.0"):
        steep.predict(base_tokens=1e7, tokens=1e5)
    with pytest.raises(PredictionError, match=r"exponent of base_tokens is -0\.0"):
        steep.predict(base_tokens=1e5, tokens=1e7)
    assert steep.predict(base_tokens=1e7, tokens=1e5, extrapolate=True).value > 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tokens": 1e5}, "needs base_tokens="),
        ({"base_tokens": 2e5, "tokens": 0}, "tokens is 0"),
        ({"base_tokens": -1, "tokens": 1e5}, "finite and not negative"),
        ({"base_tokens": 2e5, "tokens": float("nan")}, "finite and not negative"),
        ({"base_tokens": 2e5, "tokens": "many"}, "tokens is 'many'; it must be finite"),
        ({"base_tokens": 2e5, "tokens": [1e5, [2e5]]}, "finite and not negative"),
        ({"base_tokens": 2e5, "tokens": 10**400}, "finite and not negative"),
        ({"base_tokens": [1e5, 2e5, 3e5], "tokens": [1e5, 2e5]}, r"base_tokens \(3,\), tokens \(2,\)"),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(law, asked, message):
    with pytest.raises(PredictionError, match=message):
        law.predict(**asked)


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.5, "95%", float("nan"), True])
def test_a_level_no_interval_can_have_is_refused(law, level):
    for ask in (
        lambda: law.interval("E", level),
        lambda: law.predict(base_tokens=2e5, tokens=2e5, level=level),
        lambda: law.exponent(2e5, level),
    ):
        with pytest.raises(LawError, match="must lie between 0 and 1"):
            ask()


@pytest.mark.parametrize("resamples", [0, -1, 1, "many", 2.5, True, None])
def test_resamples_that_cannot_be_are_refused(resamples):
    with pytest.raises(LawError, match="resamples is"):
        ScalingLaw(resamples=resamples).fit(measured(demo_design(), noise=0.003))


def test_a_share_above_one_is_refused():
    law = ScalingLaw.from_params(
        "d_cpt", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658, eta=0.3, C=0.5, gamma=0.4, epsilon=0.1
    )
    assert law.predict(tokens=1e9, n_params=1e8, mixture_ratio=1).value > 1.8
    with pytest.raises(PredictionError, match="a share of the tokens, at most 1"):
        law.predict(tokens=1e9, n_params=1e8, mixture_ratio=50)


def test_a_law_without_scratch_rows_says_nothing_at_zero():
    law = ScalingLaw().fit(measured(demo_design(scratch=False), noise=0.003))
    with pytest.raises(PredictionError, match="base_tokens is 0, where this law says nothing"):
        law.predict(base_tokens=0, tokens=2e5)


def test_the_exponent_falls_as_alpha3_says(law):
    found = law.exponent([131_072, 2_048_000])
    a2, a3 = law.params_["alpha2"], law.params_["alpha3"]
    np.testing.assert_allclose(found.value, a2 - a3 * np.log([131_072, 2_048_000]), rtol=1e-12)
    assert np.all((found.low < found.value) & (found.value < found.high))
    assert law.exponent(0).value == pytest.approx(law.params_["alpha_scratch"])
    with pytest.raises(LawError, match="has no exponent of D2 at fixed D1"):
        ScalingLaw.from_params("total_tokens", A=400.0, alpha=0.4, E=1.8).exponent(1e6)


def test_before_fit_there_is_nothing_to_ask():
    with pytest.raises(NotFittedError, match="Call fit"):
        ScalingLaw().predict(base_tokens=1, tokens=1)
    assert repr(ScalingLaw()) == "ScalingLaw(form='bootstrap', objective='huber', delta=0.001)"


def test_the_summary_says_what_was_done_and_what_to_doubt(small):
    text = small.summary()
    for word in (
        *TRUTH,
        "huber, delta 0.001",
        "15, of which 3 from scratch",
        "natural logs",
        "Too few bases: 4",
        "[1]",
    ):
        assert word in text
    assert "3 from-scratch rows (D1 = 0), where this form diverges" in text
    assert max(map(len, text.split("Warnings:")[0].splitlines()[3:])) < 140


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"design": demo_design(marks=(131_072, 262_144))}, "tokens has 2 levels; a curve needs at least 3"),
        ({"design": demo_design(bases=(131_072, 200_000, 300_000, 400_000))}, "base_tokens spans 0.48 decades"),
        ({"design": [(d, d // 10, 0) for d in (100_000, 300_000, 900_000, 2_700_000, 9_000_000, 27_000_000)]},
         "A, alpha1, alpha2 cannot be told apart by these points because D2/D1 is constant"),
        ({"design": demo_design(marks=(131_072, 262_144, 524_288), bases=(131_072, 524_288, 2_097_152))},
         "12 points for 7 parameters: fewer than two each"),
    ],
    ids=["levels", "decades", "constant ratio", "few points"],
)  # fmt: skip
def test_checks_see_what_a_design_cannot_tell(change, words):
    law = ScalingLaw(resamples=40).fit(measured(noise=0.001, **change))
    assert any(words in sentence for sentence in law.checks_), law.checks_


def test_checks_see_outliers_and_misfits_and_sizes():
    table = measured(demo_design(trunks=6), noise=0.002)
    table["loss"][10] *= 1.08
    checks = ScalingLaw(resamples=40).fit(table).checks_
    assert any(f"1 outlier beyond five times the usual error: {table['run_id'][10]} (+" in c for c in checks)
    wrong = ScalingLaw("total_tokens", resamples=40).fit(measured(demo_design(trunks=6, bases=(10**7, 10**8, 10**9))))
    assert any("this form does not describe these points" in c for c in wrong.checks_)
    sizes = {**table, "n_params": np.where(table["base_tokens"] > 3e5, 100, 200)}
    assert any("Model sizes differ" in c for c in ScalingLaw(resamples=40).fit(sizes).checks_)


def test_checks_see_a_floor_that_is_gone():
    pure = ScalingLaw.from_params("multiplicative", A=200.0, alpha1=0.06, alpha2=0.28, E=1e-9)
    law = ScalingLaw("multiplicative", resamples=40).fit(
        measured(demo_design(trunks=6, scratch=False), pure, noise=1e-3)
    )
    assert any("E has gone to 0" in c or "E is not identified" in c for c in law.checks_)


def test_too_few_scratch_rows_are_left_out_and_named():
    design = [row for row in demo_design() if row[0] or row[1] == 131_072]
    law = ScalingLaw().fit(measured(design, noise=0.002))
    assert "A_scratch" not in law.params_
    assert "1 from-scratch row left out: their curve needs at least 3 token counts." in law.checks_
    with pytest.raises(FitError, match="All 3 points are from scratch"):
        ScalingLaw().fit(measured([row for row in demo_design() if not row[0]]))


def test_a_form_of_ones_own_is_fitted_by_passing_the_object(tmp_path):
    class PowerLaw(LogLinear):
        name, formula, source = "mine", "L = C * D2^-a", "here"
        columns, parameters, positive, covers_scratch = ("tokens",), ("C", "a"), frozenset({"C"}), True

        def design(self, logs):
            v = logs["tokens"]
            return [np.stack([np.ones_like(v), -v], axis=1)]

        def starts(self, logs, loss):
            return np.linalg.lstsq(self.design(logs)[0], np.log(loss), rcond=None)[0][None]

    tokens = np.geomspace(1e5, 1e7, 8)
    law = ScalingLaw(PowerLaw(), resamples=40).fit({"tokens": tokens, "loss": 30 * tokens**-0.15})
    assert law.params_ == pytest.approx({"C": 30.0, "a": 0.15})
    assert law.predict(tokens=1e6).value == pytest.approx(30 * 1e6**-0.15)
    with pytest.raises(LawError, match="'mine' is not in FORMS"):
        law.save_pretrained(tmp_path / "law")


# --- on disk ---


def asked_of(law):
    found = law.predict(base_tokens=[1.5e5, 1e6, 0], tokens=[3e5, 5e5, 4e5])
    return np.array([found.value, found.low, found.high, found.reach])


def test_a_saved_law_predicts_the_same_to_the_last_bit(law, tmp_path):
    law.save_pretrained(tmp_path / "law")
    again = ScalingLaw.from_pretrained(tmp_path / "law")
    np.testing.assert_array_equal(asked_of(again), asked_of(law))
    assert again.params_ == law.params_
    assert again.summary(nulls=False) == law.summary(nulls=False)
    assert {name: again.interval(name) for name in TRUTH} == {name: law.interval(name) for name in TRUTH}
    assert again.points_.digest() == law.points_.digest()
    figures = sorted(p.stem for p in (tmp_path / "law" / "figures").iterdir())
    assert figures == ["loss-curves", "residuals", "three-panels"]
    again.save_pretrained(tmp_path / "again")
    for name in ("law.json", "README.md", "points.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "law" / name).read_bytes()


def test_scaling_points_are_saved_as_they_came(tmp_path):
    table = measured(demo_design(), noise=0.003)
    columns = (table["base_tokens"].tolist(), table["tokens"].tolist(), table["loss"].tolist(), table["run_id"])
    points = [
        ScalingPoint(base_tokens=b, tokens=d, loss=x, run_id=run, method="continue" if b else "scratch", domain="code")
        for b, d, x, run in zip(*columns, strict=True)
    ]
    law = ScalingLaw(resamples=30).fit(points)
    law.save_pretrained(tmp_path)
    again = ScalingLaw.from_pretrained(tmp_path)
    assert again.points_.records == tuple(points)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: hf-bootstrap\n")
    assert "method: continue, scratch." in card
    assert "| `alpha3` |" in card


def test_published_parameters_are_saved_and_read_without_intervals(tmp_path):
    law = ScalingLaw.from_params("chinchilla", A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    law.save_pretrained(tmp_path)
    again = ScalingLaw.from_pretrained(tmp_path)
    found = again.predict(tokens=1.4e12, n_params=7e10)
    assert found.value == law.predict(tokens=1.4e12, n_params=7e10).value
    assert (found.low, found.high, found.reach) == (None, None, None)
    assert again.points_ is None


def test_points_that_were_changed_afterwards_are_noticed(small, tmp_path):
    small.save_pretrained(tmp_path)
    text = (tmp_path / "points.csv").read_text()
    (tmp_path / "points.csv").write_text(text.replace("131072.0", "131073.0", 1))
    with pytest.raises(LawFileError, match="does not hold the points"):
        ScalingLaw.from_pretrained(tmp_path)


HOSTILE = {
    "nothing": b"",
    "no law": b'{"kind": "run"}',
    "a list": b"[1, 2]",
    "not text": b"\xff\xfe\x00",
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": b'{"kind": "law", "schema": 1, "theta": [NaN]}',
    "huge number": b'{"kind": "law", "schema": 1' + b"0" * 5000 + b"}",
    "half": b'{"kind": "law", "schema": 1, "form": "boots',
    "of another version": b'{"kind": "law", "schema": 2}',
    "without content": b'{"kind": "law", "schema": 1}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_files_that_are_not_a_law_are_refused(content, tmp_path):
    (tmp_path / "law.json").write_bytes(content)
    with pytest.raises(LawFileError):
        ScalingLaw.from_pretrained(tmp_path)


def test_a_missing_law_is_refused(tmp_path):
    with pytest.raises(LawFileError, match="cannot be read"):
        ScalingLaw.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def law_bytes(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("law")
    small.save_pretrained(folder)
    return (folder / "law.json").read_bytes()


@given(share=st.floats(0, 0.999))
def test_a_law_cut_short_anywhere_is_refused(law_bytes, tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    (folder / "law.json").write_bytes(law_bytes[: int(share * len(law_bytes))])
    with pytest.raises(LawFileError):
        ScalingLaw.from_pretrained(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data())
def test_a_law_with_any_part_replaced_is_refused_or_answers(law_bytes, tmp_path_factory, data):
    """Whatever stands in a law file, reading it ends in a law that works or in a LawFileError."""
    record = json.loads(law_bytes)
    part = record["replicates"] if data.draw(st.booleans()) else record
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON)
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "law.json").write_text(json.dumps(record))
    try:
        law = ScalingLaw.from_pretrained(folder)
    except LawFileError:
        return
    assert law.predict(base_tokens=2e5, tokens=2e5).value > 0
    assert law.summary()


def test_a_floor_that_has_gone_to_zero_has_no_certain_looking_interval():
    table = measured(demo_design(), noise=0.003)
    # Losses that fall ever faster in the logs of tokens: whatever bends the other way than a floor does.
    table["loss"] = 9.0 * np.exp(-0.004 * (np.log(table["tokens"]) - 8) ** 2) * np.array(table["loss"]) ** 0.2
    law = ScalingLaw().fit(table)
    assert law.fitted.replicates.method == "jackknife"
    assert law.params_["E"] < 1e-3
    assert law.interval("E") is None
    assert law.stderr_["E"] is None
    assert any("E has gone to 0" in sentence for sentence in law.checks_)


def test_a_notebook_shows_the_summary_without_scripts(small):
    page = small._repr_html_()
    assert "alpha3" in page
    assert page.startswith("<pre>")
    assert "<" not in page[5:-6]
    assert "ScalingLaw" in ScalingLaw()._repr_html_()


def test_a_law_is_drawn_in_one_call(small):
    assert len(small.plot().axes) >= 3
    total = ScalingLaw("total_tokens", resamples=20).fit(measured(demo_design(), noise=0.003))
    assert len(total.plot().axes) == 1
