"""A pool in; runs at equal budgets, and whether the differences between them are real, out.

`compare` plans and shares the runs ([`compare`]): `strategies` (who is taken, with `less`, `rds` and `bm25` beside our
own), `batches` (equal tokens in equal steps), `training` (one run), `heldout` (what it is judged by), `results` (all
of it as types), `statistics` (paired intervals), `page` (for people). Imports everything but the command line.
"""
