"""The site builds without a warning, asks nothing of other machines, and holds what its pages lead to."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from .pages import ROOT

_REMOTE = re.compile(r"(https?:)?//")


class _Page(HTMLParser):
    """What a page loads by itself, and where its links lead."""

    def __init__(self):
        super().__init__()
        self.loaded, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag in ("script", "img", "source", "iframe") and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(found["href"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    found = {}
    for path in site.rglob("*.html"):
        if path.name == "404.html" or "repository" in path.parts:
            continue  # the first speaks in addresses of a server, the second are files shown as they are
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        found[path] = page
    return found


def test_no_page_loads_anything_from_elsewhere(pages):
    assert [(path.name, what) for path, page in pages.items() for what in page.loaded if _REMOTE.match(what)] == []
    styles = {Path(path.parent, what.partition("?")[0]) for path, page in pages.items() for what in page.loaded}
    assert not [s for s in styles if s.suffix == ".css" and re.search(r"url\(\s*['\"]?https?:", s.read_text())]


def test_every_link_leads_to_a_page_or_file_of_the_site_and_its_heading(pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if _REMOTE.match(target) or target.startswith("mailto:"):
                continue
            there = Path(path.parent, target).resolve() if target else path
            is_lost = not there.exists() or (anchor and there in pages and anchor not in pages[there].ids)
            lost += [(path.name, link)] if is_lost else []
    assert lost == []


def test_every_page_of_docs_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_the_links_of_llms_txt_lead_to_pages():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/llms.txt").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []


@pytest.mark.parametrize("name", ["wordmark.svg", "mark.svg"])
def test_a_drawing_is_small_and_asks_nothing(name):
    text = (ROOT / "docs/assets" / name).read_text(encoding="utf-8")
    assert len(text) < 3000
    assert "<script" not in text
    assert not re.search(r"href=|url\(", text)
