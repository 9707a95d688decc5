"""Scored datasets in; pages and figures out.

`report` writes one HTML page ([`write_report`]), `pages` fills templates, `figures` draws. Imports `selection` and
`rows`.
"""
