"""The report's page: well formed, self-contained, and safe with any text."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import detlite
from detlite.inspection.report.page import SCRIPTS, format_page

VOID = {"meta", "link", "input"}
NAMES = ["</script><script>alert(1)</script>", "<!--<script>", "%%script%%", "a & b", "\u2028", "\udcff"]


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == self.elements[-1][0]:  # text before the first child or the end
            self.texts[-1] += text

    def all(self, tag):
        pairs = zip(self.elements, self.texts, strict=True)
        return [(attributes, text) for (name, attributes), text in pairs if name == tag]


@pytest.fixture(scope="module")
def read():
    return Page(format_page({"classes": NAMES}))


def test_strangers_texts_come_back_as_they_were_and_start_no_script(read):
    scripts = read.all("script")
    assert [attributes.get("type") for attributes, _ in scripts] == ["application/json", None]
    assert json.loads(scripts[0][1]) == {"classes": NAMES}
    assert not {"<", ">", "&"} & set(scripts[0][1])


def test_the_policy_allows_its_own_script_and_style_and_nothing_from_elsewhere(read):
    policy = next(a["content"] for a, _ in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, text in (("script-src", read.all("script")[1][1]), ("style-src", read.all("style")[0][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    links = [a[key] for _, a in read.elements for key in ("src", "href") if key in a]
    assert links == ["data:,"]


def test_the_script_sets_texts_only_as_text(read):
    script = read.all("script")[1][1]
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "import("):
        assert unsafe not in script


def test_every_id_is_there_once_and_every_field_has_a_label(read):
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    fields = {a["id"] for tag, a in read.elements if tag in ("input", "select")}
    assert fields == {a["for"] for a, _ in read.all("label")}


def test_the_script_asks_for_no_id_that_is_not_there(read):
    asked = set(re.findall(r"""byId\("([^"]+)"\)""", read.all("script")[1][1]))
    assert asked and asked <= {a["id"] for _, a in read.elements if "id" in a}


def test_an_installed_detlite_has_the_page_s_own_files(tmp_path):
    folder = Path(detlite.__file__).parent
    parts = {str(file.relative_to(folder.parent)) for file in (folder / "inspection/report").rglob("page.*")}
    shutil.copytree(folder, tmp_path / "detlite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(folder.parent / "configs", tmp_path / "configs")
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(folder.parent / name, tmp_path)
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    built = {str(file.relative_to(tmp_path / "built")) for file in (tmp_path / "built").rglob("*.*")}
    scripts = {f"detlite/inspection/report/web/{name}" for name in SCRIPTS}
    assert len(scripts) == 3 and parts | scripts <= built
