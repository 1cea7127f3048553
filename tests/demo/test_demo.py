"""The main job end to end, small: real text, real runs, real laws, and a page that needs nothing else."""

import dataclasses
import functools
import re

import pytest

from hf_bootstrap import ScalingLaw, demo
from hf_bootstrap.store import read_points
from hf_bootstrap.study import analysis, conduct, text

MARKS = (5_120, 10_240, 20_480)
TITLES = {"continue": "Continued", "stack": "depth", "expand-split": "width"}


@pytest.fixture(
    params=[("continue", "expand-split"), pytest.param(tuple(TITLES), marks=pytest.mark.slow)],
    ids=["one growth", "all"],
)
def small(request, monkeypatch):
    """The demo with little of its text and a hundredth of its tokens; everything else as it is. Gives its methods."""
    whole = demo.demo_study()
    sources = text._sources
    monkeypatch.setattr(text, "_sources", lambda folder: sources(folder)[:60])
    monkeypatch.setattr(analysis, "analyse", functools.partial(analysis.analyse, draws=9))
    part = dataclasses.replace(
        whole,
        held_out_characters=4_000,
        bases=tuple(dataclasses.replace(base, tokens=MARKS) for base in whole.bases),
        methods=tuple(
            dataclasses.replace(method, tokens=MARKS) for method in whole.methods if method.name in request.param
        ),
        training=dataclasses.replace(whole.training, warmup_steps=4, rewarm_steps=2),
    )
    monkeypatch.setattr(demo, "demo_study", lambda: part)
    return request.param


def test_the_whole_story_runs_and_a_second_call_trains_nothing(small, tmp_path, monkeypatch):
    said = []
    report = demo.run_demo(tmp_path, say=said.append)
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/done.json")}
    assert len(done) == 4 + (4 + 3 * 4) * len(small)

    page = report.read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?!data:)", page)
    for method, title in ((name, TITLES[name]) for name in small):
        assert title in page
        assert title in said[-1]
        points = read_points(tmp_path / f"points/{method}.jsonl").points
        ends = [p for p in points if p.phase == "end"]
        assert sorted({p.base_tokens for p in ends}) == [0, *MARKS]
        assert {p.tokens for p in ends} == set(MARKS)
        law = ScalingLaw.from_pretrained(tmp_path / f"law-{method}")
        assert law.n_points_ == len(ends) == 12
    starts = [p for p in read_points(tmp_path / "points/expand-split.jsonl").points if p.base_tokens and not p.tokens]
    bases = {p.tokens: p.loss for p in read_points(tmp_path / "points/scratch.jsonl").points if p.phase == "end"}
    assert {p.base_tokens: p.loss for p in starts} == {d1: pytest.approx(bases[d1], rel=1e-5) for d1 in MARKS}

    # The laws would be fitted anew, to the same points: half a minute that shows nothing more.
    monkeypatch.setattr(conduct, "write_study_report", lambda folder, points: (report, f"{len(points)} points"))
    demo.run_demo(tmp_path, say=said.append)
    assert said[-1] == f"{sum(len(read_points(file).points) for file in tmp_path.glob('runs/*/points.jsonl'))} points"
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/done.json")} == done
