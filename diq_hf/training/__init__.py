"""A trainer in, one that chooses its own rows out.

`callback` is [`DIQCallback`] and `settings` what it was asked for; `trainers` says which trainers and loaders can be
steered, `plan` how many steps they train. `steering` holds one training (when to score, what to take), `pool` what is
known of the rows and which follow, `passing` which of them never do, `sampler` hands the chosen ones out, `rescoring`
scores a trainer's rows by its `objectives` (cross-entropy, DFT, DPO), `words` says what a source of difficulty reads
of them, `online` reads influences off the training itself on one of the `directions` that checkpoints hold, `history`
keeps every choice on disk. Imports `difficulty`, `engine`, `selection`, `rows` and `reporting`.
"""
