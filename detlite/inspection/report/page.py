"""The report's page: one HTML file with its data, style and script, which loads nothing from a network."""

import base64
import hashlib
import json
from pathlib import Path

WEB = Path(__file__).parent / "web"
SCRIPTS = ("charts.js", "tables.js", "page.js")


def format_page(content):
    """Return the page, as HTML, of what :func:`~detlite.inspection.report.content.report_content` returned.

    Class and file names are other people's texts. They are in the JSON block only, where no character can end the
    block, and the script inserts them as text, never as HTML. The page's policy allows no other script and no request.
    """
    style = (WEB / "page.css").read_text(encoding="utf-8")
    script = "".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)
    values = {
        "policy": f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        "style": style,
        "script": script,
        "data": embedded_json(content),
    }
    # The template alternates: text, a name between %%, text, ...
    parts = (WEB / "page.html").read_text(encoding="utf-8").split("%%")
    parts[1::2] = [values[name] for name in parts[1::2]]
    return "".join(parts)


def embedded_json(value):
    """Return JSON that is safe inside a script element, whatever texts it holds.

    >>> print(embedded_json(["</script><!--", "&"]))
    ["\\u003c/script\\u003e\\u003c!--","\\u0026"]
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text):
    """Return the source expression of an inline script or style in the page's policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
