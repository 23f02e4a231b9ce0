"""The report: one HTML page on a run's mistakes, with numbers, curves, kinds of errors and a gallery."""
