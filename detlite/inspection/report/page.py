"""The report's page: one HTML file with its data, style and script in it, that asks nothing of a network."""

import base64
import hashlib
import json
from pathlib import Path

WEB = Path(__file__).parent / "web"
SCRIPTS = ("charts.js", "tables.js", "page.js")


def write_page(content, path):
    """Write the report.

    Args:
        content: what :func:`~detlite.inspection.report.content.report_content` gave.
        path: of the HTML file.
    """
    Path(path).write_text(page(content), encoding="utf-8")


def page(content):
    """The report as text.

    Class and file names are strangers' texts: they stand in the JSON block alone, where no character of them can end
    it, the script shows them as text alone, and the page's policy runs no other script and loads nothing.
    """
    style = (WEB / "page.css").read_text(encoding="utf-8")
    script = "".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)
    values = {
        "policy": f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        "style": style,
        "script": script,
        "data": embedded_json(content),
    }
    parts = (WEB / "page.html").read_text(encoding="utf-8").split("%%")  # text, name, text, name, ..., text
    return "".join(values[part] if n % 2 else part for n, part in enumerate(parts))


def embedded_json(value):
    """JSON that can stand inside a script element whatever texts are in it.

    >>> print(embedded_json(["</script><!--", "&"]))
    ["\\u003c/script\\u003e\\u003c!--","\\u0026"]
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text):
    """How a page's policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
