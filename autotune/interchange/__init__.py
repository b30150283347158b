"""Tuning results in formats that other tools read and write; what can be imported is recognized by its content."""

from autotune.interchange import kernel_tuner, t4

RECOGNIZERS = (t4, kernel_tuner)
"""Modules, each with a NAME, `recognizes(head, path)`, head being a file's first bytes, and `load(path, db)`, which
gives a `summary.Summary` and raises UserError for a damaged file before anything is stored."""
