"""Chromium for tests of pages; a test that needs it is skipped where it is missing."""

import contextlib
import os
import shutil

import pytest

WIDE, PHONE = (1280, 860), (380, 780)


def playwright():
    """Its module; launch/test.sh installs it."""
    return pytest.importorskip("playwright.sync_api", reason="needs playwright")


@contextlib.contextmanager
def chromium():
    """A headless browser."""
    program = os.environ.get("GRU_MEM_CHROMIUM_PATH") or shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    # A sandbox of its own is refused to root, in containers too.
    with playwright().sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=60_000
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, *, size=WIDE, dark=False, hash="", before="", said=None):
    """A page from its file; what the browser complains of fails the test.

    Args:
      browser: of `chromium`.
      path: of the page.
      size: width and height of the window.
      dark: whether the system asks for dark colours.
      hash: the URL's fragment, with #.
      before: a script that runs before those of the page.
      said: a list for what the browser complains of: it is no failure then.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
    )
    context.set_default_timeout(20_000)
    page = context.new_page()
    lines, asked = [], []
    page.on("console", lambda message: lines.append(message.text))
    page.on("pageerror", lambda error: lines.append(str(error)))
    page.on("dialog", lambda dialog: lines.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    if before:
        page.add_init_script(before)
    page.goto(f"{path.resolve().as_uri()}{hash}")
    yield page
    context.close()
    if said is not None:
        said += lines
        return
    assert not lines, lines
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not outside, outside
