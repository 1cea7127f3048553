"""The planner computes what Python computes, can be used by hand and by keyboard, and asks nobody."""

import json
import math
import re
import zlib

import numpy as np
import pytest

from hf_bootstrap import ScalingLaw
from hf_bootstrap.laws.forms import FORMS
from hf_bootstrap.laws.planner import planner_page, planner_record
from hf_bootstrap.laws.scratch import WithScratch
from hf_bootstrap.sealing import canonical_json

UPCYCLED = {"A": 16.3, "alpha1": 0.043, "alpha2": 0.085, "alpha3": 7.98e-4, "B": 8.53, "beta": 0.112, "E": 0.165}
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
KEYS = {"base_tokens": "u", "tokens": "v", "n_params": "n", "unique_tokens": "q", "mixture_ratio": "r"}
CLOSE = {"rel": 1e-6}


@pytest.fixture(scope="module")
def fitted():
    """A law with a branch from scratch and a hundred joint refits."""
    return ScalingLaw("bootstrap", resamples=100).fit("docs/demo/continue.jsonl")


@pytest.fixture(scope="module")
def drawn():
    """The same of eight trunks, whose intervals are percentiles."""
    return ScalingLaw("bootstrap", resamples=100).fit(_many_trunks())


def _many_trunks():
    rng, rows = np.random.default_rng(0), {"base_run_id": [], "base_tokens": [], "tokens": [], "loss": [], "run_id": []}
    for trunk in range(8):
        luck = 1 + 0.003 * rng.normal()
        for base in (0.0, 1e9, 4e9, 1.6e10):
            for tokens in (1e8, 1e9, 1e10):
                reused = 40 * base**-0.09 * tokens ** (-0.16 + 0.0035 * math.log(base)) if base else 45 * tokens**-0.155
                rows["base_run_id"].append(f"t{trunk}")
                rows["run_id"].append(f"t{trunk}-{base:.0f}-{tokens:.0f}")
                rows["base_tokens"].append(base)
                rows["tokens"].append(tokens)
                rows["loss"].append((reused + 1.6) * luck * (1 + 0.001 * rng.normal()))
    return rows


def _random_theta(form, rng, count):
    """Parameters such as fits find: positive ones of any size by their logarithm, exponents between 0 and 1."""
    theta = rng.uniform(0.05, 0.6, size=(count, len(form.parameters)))
    for i, name in enumerate(form.parameters):
        if name in form.positive and name != "E":
            theta[:, i] = rng.uniform(-1.0, 6.0, count)
        if name in ("R_D", "R_N", "s", "epsilon", "alpha_N", "alpha_D") or (
            name in ("alpha", "beta") and name in form.positive
        ):
            theta[:, i] = rng.uniform(-2.0, 1.5, count)
        if name == "alpha3":
            theta[:, i] = rng.uniform(-0.01, 0.02, count)
        if name == "c":
            theta[:, i] = rng.uniform(-20.0, -2.0, count)
    return theta


BRANCHED = {f"{name} with scratch": WithScratch(form) for name, form in FORMS.items() if not form.covers_scratch}


@pytest.mark.parametrize("form", [*FORMS.values(), *BRANCHED.values()], ids=[*FORMS, *BRANCHED])
def test_every_form_is_computed_as_in_python(opened, form):
    rng = np.random.default_rng(1)
    theta = _random_theta(form, rng, 40)
    logs = {name: rng.uniform(5, 30, 40) for name in form.columns}
    if "mixture_ratio" in logs:
        logs["mixture_ratio"] = np.log(rng.uniform(0.05, 1, 40))
    if form.covers_scratch and "base_tokens" in logs:
        logs["base_tokens"][:10] = -np.inf
    expected = [
        form.log_loss({name: column[i : i + 1] for name, column in logs.items()}, theta[i : i + 1])[0, 0]
        for i in range(40)
    ]
    page = opened(planner_page(ScalingLaw.from_params("chinchilla", **CHINCHILLA)))
    inner = form.inner if isinstance(form, WithScratch) else form
    law = {"form": inner.name, "scratch": isinstance(form, WithScratch), "shared": len(inner.shared)}
    rows = [{KEYS[name]: float(column[i]) for name, column in logs.items()} for i in range(40)]
    rows = [{key: "-Infinity" if value == -math.inf else value for key, value in row.items()} for row in rows]
    found = page.evaluate(
        """([law, rows, thetas]) => rows.map((row, i) => {
            const x = Object.fromEntries(Object.entries(row).map(([k, v]) => [k, Number(v)]));
            return String(window.planner.logLossOf(law, x, thetas[i]));
        })""",
        [law, rows, theta.tolist()],
    )
    found = np.array([float(value) for value in found])
    assert np.isfinite(expected).sum() > 20
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_page_knows_every_form(opened):
    page = opened(planner_page(ScalingLaw.from_params("chinchilla", **CHINCHILLA)))
    assert page.evaluate("window.planner.forms.sort()") == sorted(FORMS)


def until(locator):
    """Expectations that wait: the page answers in the next frame, and a busy machine has few frames a second."""
    from playwright.sync_api import expect  # conftest skips where it is not installed

    return expect(locator)


def answer(page, box):
    """An answer's value and ends, when the frame that follows the last input is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found = page.locator(f"#{box}")
    numbers = [found.get_attribute(f"data-{name}") for name in ("value", "low", "high")]
    return [None if number is None else float(number.replace("Infinity", "inf")) for number in numbers]


def agree(found, expected):
    """To 1e-6, and unknown where the other is unknown."""
    assert [value is None for value in found] == [value is None for value in expected]
    assert [x for x in found if x is not None] == pytest.approx([x for x in expected if x is not None], rel=1e-6)


def decided(found):
    return [found.value, found.low, found.high]


def as_far(page, box, found):
    """An answer lies as many decades beyond the data as Python says, and the box says so."""
    told = page.locator(f"#{box}").get_attribute("data-reach")
    assert (None if told is None else float(told)) == (
        None if found.reach is None else pytest.approx(found.reach, abs=1e-6)
    )
    said = f"{found.reach:.1f} decades beyond the data" if (found.reach or 0.0) >= 0.05 else ""
    assert said in page.inner_text(f"#{box}")
    assert bool(said) == ("beyond the data" in page.inner_text(f"#{box}"))


@pytest.mark.parametrize("which", ["fitted", "drawn"])
@pytest.mark.parametrize(
    "place", [(0.5, 0.5), (3.0, 0.6), *(pytest.param(p, marks=pytest.mark.slow) for p in ((0.2, 0.9), (1.4, 0.3)))]
)
def test_the_answers_are_those_of_python(opened, request, which, place):
    law = request.getfixturevalue(which)
    page = opened(law.to_html())
    (low1, high1), (low2, high2) = (law.fitted.ranges[name] for name in ("base_tokens", "tokens"))
    base = float(f"{low1 * (high1 / low1) ** place[0]:.6g}")
    tokens = float(f"{low2 * (high2 / low2) ** place[1]:.6g}")
    flops, size = 6e5 * base * 3, 2e5
    for name, value in {"base_tokens": base, "tokens": tokens, "flops": flops, "base_size": 1e5, "size": size}.items():
        page.fill(f"#{name}", repr(value))
    predicted = law.predict(base_tokens=base, tokens=tokens, extrapolate=True)
    agree(answer(page, "loss"), [predicted.value, predicted.low, predicted.high])
    exponent = law.exponent(base, extrapolate=True)
    agree(answer(page, "exponent"), [exponent.value, exponent.low, exponent.high])
    crossover = law.crossover(base_tokens=base)
    agree(answer(page, "crossover"), decided(crossover))
    as_far(page, "crossover", crossover)
    agree(answer(page, "saturation"), decided(law.saturation()))
    as_far(page, "saturation", law.saturation())
    split = law.best_split(flops=flops, n_params_base=1e5, n_params=size)
    agree(answer(page, "split"), decided(split))
    as_far(page, "split", split)
    until(page.locator("#warning")).to_have_attribute("data-outside", str(bool(predicted.reach >= 0.05)).lower())
    until(page.locator("#warning")).to_be_visible(visible=bool(predicted.reach >= 0.05))


def test_a_law_of_size_and_tokens_divides_a_budget(opened):
    law = ScalingLaw.from_params("chinchilla", **CHINCHILLA)
    page = opened(law.to_html())
    page.fill("#flops", "5.76e23")
    page.fill("#tokens", "1.4T")
    page.fill("#n_params", "70B")
    agree(answer(page, "optimal"), decided(law.compute_optimal(flops=5.76e23)))
    assert answer(page, "loss")[0] == pytest.approx(law.predict(tokens=1.4e12, n_params=7e10).value, **CLOSE)
    assert answer(page, "loss")[1:] == [None, None]
    until(page.locator("#loss")).to_contain_text("interval not known")
    until(page.locator("#warning")).to_contain_text("are not here")


def test_upcycling_has_no_crossover_without_a_law_from_scratch(opened):
    law = ScalingLaw.from_params("bootstrap_n", **UPCYCLED)
    page = opened(law.to_html())
    for name, text in {"base_tokens": "74e9", "tokens": "37e9", "n_params": "1B"}.items():
        page.fill(f"#{name}", text)
    assert answer(page, "loss")[0] == pytest.approx(2.1442, abs=5e-5)  # as published
    assert page.locator("#crossover").count() == 0
    assert "without runs from scratch" in page.inner_text("main")


@pytest.mark.parametrize("form", ["total_tokens", "effective_transfer"])
def test_forms_that_hold_from_scratch_find_their_crossover_by_search(opened, form):
    law = ScalingLaw(form, resamples=20).fit("docs/demo/continue.jsonl")
    page = opened(law.to_html())
    page.fill("#base_tokens", "500k")
    agree(answer(page, "crossover"), decided(law.crossover(base_tokens=5e5)))


def test_sliders_follow_fields_and_keys_move_sliders(opened, fitted):
    page = opened(fitted.to_html())
    page.fill("#base_tokens", "1M")
    place = int(page.input_value("#base_tokens-slider"))
    page.focus("#base_tokens-slider")
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    until(page.locator("#base_tokens-slider")).to_have_value(str(place + 25))
    text = page.input_value("#base_tokens")
    assert re.fullmatch(r"1\.\d+M", text)
    value = float(text[:-1]) * 1e6
    assert answer(page, "loss")[0] == pytest.approx(
        fitted.predict(base_tokens=value, tokens=_start(page)).value, **CLOSE
    )
    page.keyboard.press("Home")
    until(page.locator("#warning")).to_be_visible()
    until(page.locator("#warning")).to_contain_text("Outside the data: base tokens by 2.0 decades")


def _start(page):
    return float(page.get_attribute("#tokens-slider", "data-start"))


@pytest.mark.parametrize("text", ["", "-3", "abc", "0", "1e999", "3Q", "NaN", "<b>"])
def test_what_is_no_count_is_marked_and_changes_nothing(opened, fitted, text):
    page = opened(fitted.to_html())
    before = answer(page, "loss")
    page.fill("#base_tokens", text)
    until(page.locator("#base_tokens")).to_have_attribute("aria-invalid", "true")
    assert answer(page, "loss") == before


@pytest.mark.parametrize("width", [320, 400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_in_both_schemes(opened, fitted, width, scheme):
    page = opened(fitted.to_html(), viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    lightness = [sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in (ink, paper)]
    assert (lightness[0] < lightness[1]) == (scheme == "light")
    assert abs(lightness[0] - lightness[1]) > 150
    for label in page.locator("label").all():
        assert page.locator(f"#{label.get_attribute('for')}").count() == 1


def test_nothing_may_be_loaded_even_by_a_page_that_was_tampered_with(opened, fitted):
    page = opened(fitted.to_html())
    opened.tolerated = "Content Security Policy"
    tried = page.evaluate(
        """async () => {
            const said = [];
            const both = new Promise((done) => document.addEventListener('securitypolicyviolation', (e) => {
                if (said.push(e.effectiveDirective) === 2) done();
            }));
            try { await fetch('http://127.0.0.1:9/x'); } catch { }
            const image = new Image(); image.src = 'http://127.0.0.1:9/y.png'; document.body.append(image);
            await Promise.race([both, new Promise((done) => setTimeout(done, 10000))]);
            return said.sort();
        }"""
    )
    assert tried == ["connect-src", "img-src"]


def test_names_of_a_hostile_law_are_shown_and_do_nothing(opened, fitted, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    fitted.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "law.json").read_text())
    record["warnings"] = [evil]
    del record["crc32"]
    record["crc32"] = zlib.crc32(canonical_json(record).encode())  # as a stranger can
    (tmp_path / "law.json").write_text(json.dumps(record))
    law = ScalingLaw.from_pretrained(tmp_path)
    page = opened(law.to_html())
    page.click("summary")
    until(page.locator("main")).to_contain_text(evil)
    assert page.locator("main img, main script").count() == 0


def test_a_page_holds_the_law_to_the_last_bit(fitted):
    text = re.search(r'<script type="application/json" id="law">(.*?)</script>', fitted.to_html(), re.DOTALL)[1]
    record = json.loads(text)
    assert record == json.loads(json.dumps(planner_record(fitted.fitted)))
    assert record["theta"] == fitted.fitted.theta.tolist()


def test_a_law_in_bits_per_byte_never_speaks_of_nats(opened):
    law = ScalingLaw("bootstrap", resamples=100).fit("docs/demo/continue.jsonl", columns={"loss": "bits_per_byte"})
    page = opened(law.to_html())
    assert page.inner_text("#loss .note").startswith("bits per byte; 95%: ")
    assert "bits per byte" in page.get_attribute("#curve", "aria-label")
    assert page.text_content("#curve").count("loss, bits per byte") == 1
    assert not re.search(r"\bnats\b", page.inner_text("body"))
