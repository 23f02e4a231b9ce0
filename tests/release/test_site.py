"""The site of the docs builds without a broken link, and is searchable."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_has_every_page_and_a_search_index(run, tmp_path):
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path)
    for page in ROOT.glob("docs/*.md"):
        assert (tmp_path / f"{page.stem}.html").exists(), page
    examples = (tmp_path / "examples.html").read_text(encoding="utf-8")
    assert "<td>Your own data in ten minutes</td>" in examples  # a notebook's heading
    assert '<a href="own_data.html">Your own data</a>' in (tmp_path / "index.html").read_text(encoding="utf-8")
    index = json.loads((tmp_path / "search/search_index.json").read_text(encoding="utf-8"))
    found = [entry["location"] for entry in index["docs"] if "TopIoUMatcher" in entry["text"]]
    assert any(location.startswith("index.html") for location in found)
