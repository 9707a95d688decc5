"""Rows in, levels by an LLM judge out.

`annotate` labels a dataset ([`annotate`]); `rubric` says what each level means and reads an answer, `questions` makes
the prompts, `judge` asks an endpoint and asks again, `journal` keeps every answer on disk. Imports `difficulty` and
`rows`.
"""
