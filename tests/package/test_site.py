"""The pages: every one in the navigation, no dead link, no table too long, in Markdown and built."""

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rows import each

from tests.support.page_widths import find_browser, problems_of_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "settings.md"  # by `make docs`, not in git: a link to it is dead on GitHub
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")} - {GENERATED})
WIDTHS = (1400, 800, 390)  # a screen, a tablet, a phone
REPOSITORY = "https://example.org/someone/homodistil_hf"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml, without what the environment sets."""


Settings.add_constructor("!ENV", lambda *_: None)


def parts():
    """Part of the navigation → the names of its pages."""
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)["nav"]
    return {name: [page for entry in found for page in entry.values()] for part in nav for name, found in part.items()}


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(text):
    """Anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words, flags=re.A).strip()) for words in plain}


def test_every_page_stands_in_the_navigation_once():
    pages = [page for found in parts().values() for page in found]
    assert sorted(pages) == sorted({path.relative_to(DOCS).as_posix() for path in (*DOCS.rglob("*.md"), GENERATED)})


@each("page", PAGES)
def test_no_link_is_dead(page):
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        name, _, anchor = html.unescape(target).partition("#")
        if "://" in target or name.startswith("mailto:"):
            continue
        file = page.parent / name if name else page
        assert file.exists(), f"{page}: {target}"
        assert file.resolve() != GENERATED, f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page}: {target}"


# Built


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the site is built by zensical: pip install 'homodistil-hf[docs]'")
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "homodistil_hf").symlink_to(ROOT / "homodistil_hf")
    subprocess.run([sys.executable, "docs/settings.py"], cwd=folder, check=True, env=environment())
    published = {**environment(), "REPOSITORY_URL": REPOSITORY}
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True, env=published)
    return folder / "site"


def environment():
    """That of a process that imports this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.docs
@pytest.mark.slow
def test_links_of_the_built_site_lead_somewhere(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("index.html")}
    assert site / "settings" / "index.html" in pages
    for page, text in pages.items():
        for target in map(html.unescape, re.findall(r'<a [^>]*?href="([^"]+)"', text)):
            name, _, anchor = target.partition("#")
            if re.match(r"\w+:|//", target):
                continue
            file = (page.parent / name).resolve() if name else page
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{page.relative_to(site)}: {target}"
            if anchor and file in pages:
                assert f'id="{anchor}"' in html.unescape(pages[file]), f"{page.relative_to(site)}: {target}"


@pytest.mark.docs
@pytest.mark.slow
def test_the_reference_has_each_setting_once_and_no_code_of_fields(site):
    pages = {page.parent.name: page.read_text(encoding="utf-8") for page in (site / "reference").glob("*/index.html")}
    assert [name for name, text in pages.items() if "setting(" in text or "[<code>" in text] == []
    for setting in ("pruning_end_fraction", "vector_weight", "teacher_dtype"):
        assert pages["arguments"].count(f"<code>{setting}</code>") == 1
    assert pages["trainers"].count("<code>compute_metrics</code>") >= 4  # where a class inherits it, too


@pytest.mark.docs
@pytest.mark.slow
def test_every_page_links_to_the_repository(site):
    assert [page for page in site.rglob("index.html") if REPOSITORY not in page.read_text(encoding="utf-8")] == []


@pytest.fixture(scope="module")
def browser():
    found = find_browser()
    if found is None:
        pytest.skip("pages are laid out in Chromium or Chrome: apt-get install chromium")
    return found


@pytest.mark.docs
@pytest.mark.slow
def test_no_page_scrolls_sideways_or_fetches_from_elsewhere(site, browser):
    problems = problems_of_pages(browser, site, WIDTHS)
    assert problems.keys() == {f"/{page.relative_to(site).as_posix()}" for page in site.rglob("index.html")}
    assert {page: found for page, found in problems.items() if found} == {}
