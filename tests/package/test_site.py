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

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "settings.md"  # by `make docs`, not in git: a link to it is dead on GitHub
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")} - {GENERATED})
MAX_ROWS = 6
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def parts():
    """Part of the navigation → the names of its pages."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
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


def test_the_parts_are_those_of_a_reader():
    assert list(parts()) == ["Start", "Guides", "Concepts", "Reference", "Studies"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
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


def test_a_dead_anchor_is_seen():
    assert anchors("# One *thing*: 2\n\n```\n# no heading\n```\n\n## [Other](x.md) words") == {
        "one-thing-2",
        "other-words",
    }


@pytest.mark.parametrize("name", [*parts()["Start"], *parts()["Guides"]])
def test_tables_of_guides_are_short(name):
    tables = re.findall(r"(?:^\|.*\n)+", (DOCS / name).read_text(encoding="utf-8"), re.M)
    assert [table for table in tables if len(table.splitlines()) - 2 > MAX_ROWS] == []


@pytest.mark.parametrize("name", parts()["Guides"])
def test_a_guide_begins_with_its_command(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert re.match(r"# [^\n]+\n\n(<!--[^\n]*-->\n)?```bash\n", text)


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
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True, env=environment())
    return folder / "site"


def environment():
    """That of a process that imports this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


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
