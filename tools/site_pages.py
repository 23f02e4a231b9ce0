"""Pages of the site from outside docs/: README, CONTRIBUTING, CHANGELOG, examples and configs; a hook of mkdocs.yml."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
FOLDERS = ("examples", "configs")  # copied unchanged, as targets of links


def relink(text):
    """Change the links of a page, which are relative to its place in the repository, to the site's pages and titles."""
    text = re.sub(r"\[(?:docs/)?(\w+)\.md\](?=\((?:docs/)?\1\.md)", lambda link: f"[{title_of(link[1])}]", text)
    text = text.replace("[README](", "[start page](")
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    text = re.sub(r"\]\(\.\./", "](", text)
    text = text.replace("](README.md", "](index.md").replace("](examples)", "](examples.md)")
    return text.replace("](LICENSE)", "](LICENSE.txt)")


def title_of(page):
    """Return the heading of a page in docs/, without its explanation, or the name of a file outside it."""
    path = ROOT / "docs" / f"{page}.md"
    return path.read_text(encoding="utf-8").splitlines()[0].strip("# ").split(":")[0] if path.exists() else page


def summary_of(text):
    """Return the first sentence of the comment or docstring that a file begins with."""
    lines = [line.strip('"# ') for line in text.splitlines() if not line.startswith("# %%")]
    paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return re.split(r"(?<=\.)\s", paragraph)[0]


def on_files(files, config):
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relink(text)))
    rows = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if not path.is_file() or "__pycache__" in name:
                continue
            files.append(File.generated(config, name, content=path.read_bytes()))
            rows.append(f"| [{name}]({name}) | {summary_of(path.read_text(encoding='utf-8'))} |")
    table = "\n".join(["# Examples and configs", "", "| file | content |", "|---|---|", *rows])
    files.append(File.generated(config, "examples.md", content=table))
    return files


def on_page_markdown(markdown, page, config, files):
    return relink(markdown)
