"""The tests here need a browser, so only tests/browser/run names them."""

collect_ignore = ["report_in_chromium.py"]
