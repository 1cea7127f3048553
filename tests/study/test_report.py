import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from hf_bootstrap.laws.law import ScalingLaw
from hf_bootstrap.records import ScalingPoint
from hf_bootstrap.store import RunFolder, write_json
from hf_bootstrap.study.analysis import analyse
from hf_bootstrap.study.conduct import write_study_report
from hf_bootstrap.study.prose import apart_words, form_words, growth_words, limits
from hf_bootstrap.study.report import terminal_summary, write_report

TEXT = {
    "docs": {
        "train": {"documents": 2406, "bytes": 8_028_043, "tokens": 4_420_366, "hash": "a" * 64},
        "held_out": {"documents": 68, "bytes": 122_615, "tokens": 67_787, "hash": "b" * 64},
    },
    "versions": {"numpy": "2.4.6"},
}


class Page(HTMLParser):
    """What a browser would load, and what a person would read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            if name in ("src", "srcset", "data", "action") or (name == "href" and tag in ("link", "image")):
                self.loads.append(value)
            if name == "href" and tag == "a":
                self.links.append(value)

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def study(demo_points, tmp_path_factory):
    """A folder with the report on made-up points for which the founding law holds."""
    folder = tmp_path_factory.mktemp("demo-out")
    findings = analyse(folder, demo_points, draws=9)
    return folder, findings, write_report(folder, demo_points, findings, TEXT).read_text()


def test_the_law_that_made_the_points_is_found_for_every_method(study):
    _, findings, _ = study
    assert [finding.method for finding in findings] == ["continue", "stack", "expand-split"]
    for finding in findings:
        assert finding.law.params_["alpha3"] == pytest.approx(0.025, abs=0.01)
        assert finding.comparison.scores[0].form == "bootstrap"
        assert [d1 for d1, _ in finding.crossovers] == [131_072, 327_680, 819_200, 2_048_000]
        assert [test.null for test in finding.nulls] == ["total_tokens", "effective_transfer"]


def test_scratch_rows_count_only_beside_the_model_they_are_the_same_as(study):
    _, findings, _ = study
    assert [(finding.n_points, finding.n_scratch) for finding in findings] == [(16, 4), (12, 3), (12, 3)]


def test_the_page_loads_nothing_from_outside(study):
    page = Page(study[2])
    assert page.loads == []
    assert "script" not in page.tags
    assert not re.search(r"@import|url\((?!#)", study[2])
    assert {link for link in page.links if not link.startswith("#")} == {"https://arxiv.org/abs/2510.06548"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_the_page_says_what_was_found_and_what_was_not(study):
    folder, findings, html = study
    words = " ".join(Page(html).words.split())
    for finding in findings:
        assert f"{finding.law.params_['alpha3']:+.4f}" in words
    for part in (
        "total tokens",
        "effective transfer",
        "from scratch",
        "One trunk",
        "Four bases",
        "One seed",
        "leaving",
    ):
        assert part in words
    assert "differs between releases of Python" in words
    assert "a" * 64 in words
    assert "4,420,366" in words
    assert "numpy 2.4.6, python 3.11.7, torch 2.13.0" in words
    assert str(folder) not in html  # nothing of this machine


def test_each_method_s_table_says_which_laws_remain_and_what_the_floor_does(study):
    _, findings, html = study
    words = " ".join(Page(html).words.split())
    for finding in findings:
        left = finding.comparison.confidence_set
        rows = re.findall(r"<tr[^>]*><td>([^<]*)</td><td>(yes|no)</td>", html)
        assert {(form_words(s.form), "yes" if s.form in left else "no") for s in finding.comparison.scores} <= set(rows)
        assert apart_words(finding.comparison) in words
        alpha3, floor, _ = finding.saturation.profile.ridge()[2]
        assert f"<td>{alpha3:+.4f}</td><td>{floor:.2f}</td>" in html


def test_every_point_is_in_the_table(study, demo_points):
    words = Page(study[2]).words
    assert all(point.run_id in words and f"{point.loss:.4f}" in words for point in demo_points)


def test_each_method_has_its_figures(study):
    page = Page(study[2])
    assert page.tags.count("svg") == 3 * 3
    assert page.tags.count("figcaption") == 3 * 3


def test_the_page_has_a_dark_side_and_fits_a_phone(study):
    assert "prefers-color-scheme: dark" in study[2]
    assert 'name="viewport"' in study[2]


def test_the_saved_laws_are_those_of_the_report(study):
    folder, findings, html = study
    for finding in findings:
        law = ScalingLaw.from_pretrained(folder / f"law-{finding.method}")
        assert law.params_ == finding.law.params_
    code = re.search(r"print\(law\.predict\(base_tokens=([\d_]+), tokens=([\d_]+)\)\)", html)
    answer = findings[0].law.predict(base_tokens=int(code[1]), tokens=int(code[2]))
    assert answer.reach == 0


def test_the_terminal_gets_ten_lines_with_a3_its_interval_and_the_verdict(study, demo_points):
    _, findings, _ = study
    lines = terminal_summary(findings, demo_points).splitlines()
    assert len(lines) == 10
    for finding in findings:
        low, high = finding.law.interval("alpha3")
        value = f"α3 = {finding.law.params_['alpha3']:+.4f} [{low:+.4f}, {high:+.4f}]"
        assert any(value in line for line in lines)


def test_what_comes_from_records_is_escaped(study, demo_points, tmp_path):
    hostile = "<script>alert('x')</script>"
    points = [replace(point, method=hostile, domain=hostile, run_id=hostile) for point in demo_points[-5:]]
    findings = [replace(study[1][0], method=hostile, domain=hostile)]
    text = {hostile: {"train": {"documents": 1, "bytes": 1, "tokens": 1, "hash": hostile}}}
    html = write_report(tmp_path, points, findings, text).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.md", "law-_script_alert_x_script_"}
    told = (tmp_path / "report.md").read_text()
    assert "<script" not in told.replace("\\<script", "")


def test_points_too_few_for_a_law_give_a_report_that_says_so(demo_points, tmp_path):
    few = [point for point in demo_points if point.method == "continue" and point.base_tokens == 131_072]
    (finding,) = findings = analyse(tmp_path, few)
    assert finding.law is None
    assert finding.problem
    words = Page(write_report(tmp_path, few, findings).read_text()).words
    assert "No law could be fitted" in words
    assert " ".join(finding.problem.split())[:60] in " ".join(words.split())
    assert "no law" in terminal_summary(findings, few)


def test_growth_is_shown_with_its_proof_and_the_loss_around_it(demo_grid, demo_points, tmp_path):
    specs = {spec.run_id: spec for spec in demo_grid.specs()}
    stage = next(spec for spec in specs.values() if spec.growth and "width" in spec.growth)
    proof = {"keeps_function": True, "logit_drift": 3e-7, "tolerance": 1e-5}
    folder = RunFolder.create(tmp_path, stage)
    folder.finish({"run_id": stage.run_id, "growth": {"verification": proof}})
    base = stage.start.partition("/")[0]
    eval_sets = {"docs": {"sum": 320.5, "count": 100.0, "bytes": 180.0}}
    points = [replace(p, eval=eval_sets) for p in demo_points if p.run_id == base]
    begun = next(p for p in demo_points if p.run_id == stage.run_id)
    points.append(replace(begun, tokens=0, step=0, phase="warmup", loss=3.2051))
    (finding,) = findings = analyse(tmp_path, points)
    points.append(replace(begun, run_id="end", tokens=5_000, phase="end", loss=3.3))
    assert "did not win back" in growth_words(analyse(tmp_path, points)[0].growth)
    (found,) = finding.growth
    assert (found.loss_before, found.loss_after, found.logit_drift) == (3.205, 3.2051, 3e-7)
    words = Page(write_report(tmp_path, points, findings).read_text()).words
    assert "3.0e-07" in words
    assert "3.2050" in words
    assert "3.2051" in words
    assert "did not win back" not in words


def test_limits_follow_the_design(demo_points):
    first = " ".join(limits(demo_points))
    assert "One trunk" in first
    rich = [
        ScalingPoint(
            run_id=f"{trunk}-{tokens}",
            method="continue",
            base_tokens=1000,
            tokens=tokens,
            loss=2.0,
            base_run_id=f"trunk{trunk}",
            base_checkpoint_id=f"trunk{trunk}/step-1",
            seed=trunk,
            peak_lr=1e-3 * (1 + trunk),
        )
        for trunk in range(6)
        for tokens in range(100, 700, 100)
    ]
    second = " ".join(limits(rich))
    for gone in ("trunk", "seed", "learning rate", "marks"):
        assert gone not in second


def test_mixed_releases_are_named(demo_points, tmp_path):
    few = [point for point in demo_points if point.method == "continue" and point.base_tokens == 131_072]
    few[0] = replace(few[0], versions={"python": "3.13.1"})
    words = Page(write_report(tmp_path, few, analyse(tmp_path, few)).read_text()).words
    assert "python 3.11.7 and 3.13.1" in words
    assert "Releases are mixed." in words


def test_a_folder_with_points_of_two_texts_says_so_on_the_page_and_in_the_terminal(demo_points, tmp_path):
    few = [point for point in demo_points if point.method == "continue" and point.base_tokens == 131_072]
    few[0] = replace(few[0], hashes={**few[0].hashes, "tokenizer": "new"}, versions={"torch": "3.0"})
    page, told = write_study_report(tmp_path, few, ["Left out: 3 done runs."])
    for words in (page.read_text(), (tmp_path / "report.md").read_text(), told):
        assert "Mixed: the tokenizer is new and tttttttt." in words
        assert "Left out: 3 done runs." in words
    assert "Mixed: releases of torch: 2.13.0, 3.0." in told


def test_a_done_json_without_growth_gives_no_proof(demo_grid, demo_points, tmp_path):
    stage = next(spec for spec in demo_grid.specs() if spec.method == "continue" and not spec.resume)
    folder = RunFolder.create(tmp_path, stage)
    write_json(folder.path / "done.json", {"growth": None})
    points = [point for point in demo_points if point.run_id == stage.run_id]
    assert analyse(tmp_path, points)[0].growth == ()


def test_sizes_have_a_law_each_and_one_together(demo_points, tmp_path):
    small = [point for point in demo_points if point.method == "continue" or point.domain == "code"]
    points = []
    for factor in (1, 4, 16):
        for point in small:
            ids = {name: f"{value}x{factor}" for name in ("run_id", "base_run_id") if (value := getattr(point, name))}
            size = (point.n_params_non_embedding or 0) * factor
            loss = 1.2 + (point.loss - 1.2) * factor**-0.3
            points.append(replace(point, **ids, n_params_non_embedding=size, loss=loss))
    findings = analyse(tmp_path, points, draws=9)
    assert [f.name for f in findings] == ["continue-101k", "continue-403k", "continue-1.61M"]
    for finding in findings:
        assert (finding.method, finding.n_points, finding.n_scratch) == ("continue", 16, 4)
        assert finding.law.params_["alpha3"] == pytest.approx(0.025, abs=0.01)
    page = Page(write_report(tmp_path, points, findings).read_text())
    assert "One law for all sizes?" in page.words
    assert re.search(r"one law of its 3 sizes the exponent of N is 0\.(29|30)", page.words)
    assert "Continued training, 403k parameters" in page.words
    assert sorted(folder.name for folder in tmp_path.glob("law-*")) == [
        "law-continue-1.61M", "law-continue-101k", "law-continue-403k"
    ]  # fmt: skip
    assert page.words.count("exponent of N") == (tmp_path / "report.md").read_text().count("exponent of N") == 1


def test_sizes_a_hundredth_apart_are_one_and_unknown_ones_no_size(demo_points, tmp_path):
    # Of one mark, which no law can be fitted to: this is about which points come together.
    code = [point for point in demo_points if point.method == "continue" and point.tokens == 262_144]
    near = [
        replace(p, n_params_non_embedding=(p.n_params_non_embedding or 0) + 100 * (p.base_tokens % 7)) for p in code
    ]
    assert len({point.n_params_non_embedding for point in near}) > 1
    (found,) = analyse(tmp_path, near, draws=9)
    assert (found.name, found.n_points) == ("continue", 4)
    blind = [replace(point, n_params_non_embedding=None, run_id=f"blind-{point.run_id}") for point in code]
    found = analyse(tmp_path, [*code, *blind], draws=9)
    assert [finding.n_points for finding in found] == [4, 4]


def test_what_each_size_rests_on_is_said_of_the_one_that_rests_on_least(demo_points):
    points = [point for point in demo_points if point.method == "continue"]
    larger = [
        replace(
            p, n_params_non_embedding=10**6, n_params_base=10**6, base_run_id="other", base_checkpoint_id=f"x{n % 4}"
        )
        for n, p in enumerate(points)
    ]
    assert limits([*points, *larger])[:2] == limits(points)[:2]
