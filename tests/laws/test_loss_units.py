"""The unit of a loss: a law fitted to bits per byte never speaks of nats, wherever it speaks."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hf_bootstrap import ScalingLaw
from hf_bootstrap.cli.main import app
from hf_bootstrap.errors import LawError, LawFileError
from hf_bootstrap.laws.check_figures import residual_figure
from hf_bootstrap.laws.planner import planner_record
from hf_bootstrap.laws.points import Points
from hf_bootstrap.publish import _forecast
from hf_bootstrap.sealing import checksum

from .grids import demo_design, measured

BITS = {"loss": "bits_per_byte"}
PER_BYTE = 0.4  # bits per byte for a nat per token, of some tokenizer


def in_bits(design=None, **options):
    table = measured(demo_design() if design is None else design, noise=0.003, **options)
    return {**table, "bits_per_byte": PER_BYTE * table["loss"]}


@pytest.fixture(scope="module")
def law():
    return ScalingLaw().fit(in_bits(), columns=BITS)


@pytest.fixture(scope="module")
def folder(law, tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws") / "law"
    law.save_pretrained(folder)
    return folder


def texts(figure):
    from matplotlib.text import Text

    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("source", ["mapping", "DataFrame", "CSV", "Parquet", "Points"])
def test_the_unit_follows_from_the_column_the_losses_came_from(source, tmp_path):
    table = in_bits()
    frame = pd.DataFrame(table)
    frame.to_csv(tmp_path / "points.csv", index=False)
    frame.to_parquet(tmp_path / "points.parquet")
    given = {
        "mapping": table, "DataFrame": frame, "CSV": tmp_path / "points.csv", "Parquet": tmp_path / "points.parquet",
        "Points": table,
    }[source]  # fmt: skip
    points = Points.read(given, columns=BITS)
    points = Points.read(points) if source == "Points" else points
    assert points.loss_unit == "bits per byte"
    np.testing.assert_allclose(points.loss, table["bits_per_byte"])
    assert any("bits per UTF-8 byte" in note for note in points.left_out)
    assert Points.read(table).loss_unit == "nats per token"


def test_measured_points_carry_both_and_are_in_the_one_that_was_asked_for():
    source = Path(__file__).parents[2] / "docs/demo/continue.jsonl"
    nats, bits = Points.read(source), Points.read(source, columns=BITS)
    assert (nats.loss_unit, bits.loss_unit) == ("nats per token", "bits per byte")
    np.testing.assert_array_equal(bits.loss, [point.bits_per_byte for point in nats.records])


def test_the_summary_and_the_page_of_a_notebook(law):
    for text in (law.summary(), law._repr_html_()):
        assert "bits per byte" in text
        assert "nats" not in text
    assert law.loss_unit_ == "bits per byte"


@pytest.mark.parametrize("kind", ["three_panels", "loss_curves", "residuals"])
def test_every_axis_with_a_loss(law, kind):
    assert "loss (bits per byte)" in texts(law.plot(kind))
    assert "nats" not in texts(law.plot(kind))


def test_decisions_speak_in_the_unit_they_are_asked_in(law):
    reached = law.predict(base_tokens=819_200, tokens=400_000).value
    assert reached < 2
    for loss in (reached, 1e-3):
        told = str(law.tokens_for(loss=loss, base_tokens=819_200))
        assert "bits per byte" in told
        assert "nats" not in told
    with pytest.raises(LawError, match="number of bits per byte"):
        law.tokens_for(loss=-1, base_tokens=819_200)


def test_a_crossover_between_two_units_is_refused(law):
    scratch = ScalingLaw.from_params("total_tokens", A=100.0, alpha=0.3, E=1.0)
    with pytest.raises(LawError, match="bits per byte, those of scratch= in nats per token"):
        law.crossover(scratch, base_tokens=819_200)


def test_rows_in_the_other_unit_are_seen_and_the_sentence_names_the_laws_own():
    table = in_bits(demo_design(trunks=6))
    table["bits_per_byte"][[3, 9]] *= np.log(2)
    (sentence,) = (c for c in ScalingLaw(resamples=20).fit(table, columns=BITS).checks_ if "between bits and nats" in c)
    assert sentence.endswith("Loss is bits per byte.")


def test_a_saved_law_keeps_it_with_its_points_card_and_planner(law, folder):
    assert json.loads((folder / "law.json").read_text())["units"]["loss"] == "bits per byte"
    assert (folder / "points.csv").read_text().startswith('"base_tokens","tokens","bits_per_byte"')
    card = (folder / "README.md").read_text()
    assert "loss L in bits per byte" in card
    assert "bits per byte, the floor" in card
    assert not re.search(r"\bnats\b", card)
    again = ScalingLaw.from_pretrained(folder)
    assert (again.loss_unit_, again.points_.loss_unit) == ("bits per byte", "bits per byte")
    assert "loss (bits per byte)" in texts(residual_figure(again))
    assert planner_record(again.fitted)["unit"] == "bits per byte"
    assert law.predict(base_tokens=1e6, tokens=1e6).value == again.predict(base_tokens=1e6, tokens=1e6).value


def changed(folder, tmp_path, units):
    record = json.loads((folder / "law.json").read_text())
    record.pop("crc32")
    record["units"] = units
    (tmp_path / "law.json").write_text(json.dumps({**record, "crc32": checksum(record)}))
    return tmp_path


def test_a_file_that_states_no_unit_is_in_nats_per_token_and_a_strange_one_is_refused(folder, tmp_path):
    assert ScalingLaw.from_pretrained(changed(folder, tmp_path, {"tokens": "raw counts"})).loss_unit_ == (
        "nats per token"
    )
    for strange in ("bits per token", 1, None, ["nats per token"]):
        with pytest.raises(LawFileError, match="units is"):
            ScalingLaw.from_pretrained(changed(folder, tmp_path, {"loss": strange}))


def test_a_law_in_nats_says_so_as_before(tmp_path):
    law = ScalingLaw(resamples=20).fit(measured(demo_design(), noise=0.003))
    assert "nats per token" in law.summary(nulls=False)
    law.save_pretrained(tmp_path / "law")
    assert (tmp_path / "law" / "points.csv").read_text().startswith('"base_tokens","tokens","loss"')
    assert "loss L in nats per token" in (tmp_path / "law" / "README.md").read_text()


def test_the_command_line_fits_predicts_and_decides_in_it(tmp_path):
    pd.DataFrame(in_bits()).to_csv(tmp_path / "points.csv", index=False)

    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    fitted = run("fit", tmp_path / "points.csv", "--columns", "loss=bits_per_byte", "--out", tmp_path / "law")
    asked = ("predict", tmp_path / "law", "--base-tokens", "819200", "--tokens", "400k")
    decided = run("decide", tmp_path / "law", "tokens-for", "--loss", "1.2", "--base-tokens", "819200")
    for told in (fitted, run(*asked), decided):
        assert "bits per byte" in told
        assert "nats" not in told
    assert json.loads(run(*asked, "--json"))["unit"] == "bits per byte"


def test_the_forecast_on_a_grown_models_card():
    points = in_bits(demo_design(scratch=False))
    law = ScalingLaw(resamples=20).fit(points, columns=BITS)
    assert "bits per byte after" in _forecast(law, 819_200)
