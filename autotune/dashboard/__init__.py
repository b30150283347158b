"""The dashboard: what the tuning database knows, as one page that opens without a server.

Stages, each a pure function of the one before: `collect` (files -> page data), `pages` (page data -> words, tables
and charts), `draw` (charts -> SVG coordinates), `render` (blocks -> one HTML file). `serve` gives out what they make.
"""
