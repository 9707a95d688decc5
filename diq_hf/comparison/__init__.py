"""A pool in; runs at equal budgets, and whether the differences between them are real, out.

`compare` plans and shares the runs ([`compare`]): `strategies` (who is taken, by what `pool` scores and `rankings`
adds: `less`, `rds`, `bm25`; `online` chooses again while training), `plan` and `batches` (equal tokens and steps),
`training` and `runs` (one run, and many that are shared), `heldout` and `lm_eval_tasks` (what they are judged by, with
`forward` passes alone), `results` (all of it as types), `costs` (in passes) and `statistics` (paired intervals),
`page` with `figures` and `taken` (for people), `hub`. Imports everything but the command line.
"""
