"""A trainer in, one that chooses its own rows out.

`callback` is [`DIQCallback`]; `steering` holds one training (when to score, what to take), `pool` what is known of the
rows and which follow, `sampler` hands the chosen ones out, `rescoring` scores a trainer's rows by its `objectives`
(cross-entropy, DFT, DPO), `words` says what a source of difficulty reads of them, `online` reads influences off the
training itself, `history` keeps every choice on disk, `trainers` says which trainers can be steered. Imports
`difficulty`, `engine`, `selection`, `rows` and `reporting`.
"""
