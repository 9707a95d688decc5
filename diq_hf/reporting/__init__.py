"""Scored datasets in; pages and figures out.

`report` writes one HTML page ([`write_report`]), `figures` draws. Imports `selection` and `rows`.
"""
