"""Rows of every format in, token ids, labels and batches out.

`formats` turns a dataset's row into what `SFTTrainer` would train on ([`RowEncoder`], [`EncodedRow`], [`RowError`]);
`validation` does so for validation rows, by group; `batching` makes batches by a budget of tokens ([`Batch`],
[`TokenBudget`]). Imports the ground floor alone.
"""
