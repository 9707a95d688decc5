"""A pool in; runs at equal budgets, and whether the differences between them are real, out.

`compare` plans and shares the runs ([`compare`]), which are made of: `strategies` (who is taken, with `less`, `rds` and
`bm25` beside our own), `budget` and `batches` (equal tokens in equal steps), `runs` (one training), `heldout` (what it
is judged by), `leakage` (held-out rows that stand in the pool), `costs`, `statistics` (paired intervals). Imports
everything but the command line.
"""
