"""The page of the laws is the one the forms would write."""

from pathlib import Path

from hf_bootstrap import FORMS
from hf_bootstrap.laws.catalogue import catalogue_text

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


def test_the_page_of_the_laws_is_current():
    again = "python -m hf_bootstrap.laws.catalogue > docs/laws.md"
    assert PAGE.read_text(encoding="utf-8") == catalogue_text(), f"forms changed; write the page again: {again}"


def test_every_form_and_parameter_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for name, form in FORMS.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert form.formula.partition("; ")[0] in section
        assert all(f"| {parameter} |" in section for parameter in form.parameters)
