"""The suite leaves out what needs a browser; tests/browser/run names it."""

collect_ignore = ["report_in_chromium.py"]
