"""Tuning results in formats that other tools read and write, and the kinds of files that can be imported."""
