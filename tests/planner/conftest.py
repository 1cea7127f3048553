"""A page open in headless Chromium, that saw no request leave it and no error."""

import pathlib

import pytest

CHROMIUM = pathlib.Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e .[test]"
    )
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page's HTML; whatever it asks for besides itself, and whatever it complains of, fails the test."""
    asked, said, pages = [], [], []

    def opens(html, **about):
        path = tmp_path / f"page-{len(pages)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(**about)
        page = context.new_page()
        pages.append(context)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    opens.tolerated = None
    yield opens
    for context in pages:
        context.close()
    if opens.tolerated is not None:
        return  # the test itself asked, and looks at what came of it
    assert [url for url in asked if not url.startswith("file:")] == []
    assert len(asked) == len(pages)
    assert said == []
