"""Rows of every format in, token ids, labels and batches out.

`formats` turns a dataset's row into what `SFTTrainer` would train on ([`RowEncoder`], [`EncodedRow`], [`RowError`]),
its last answer alone (`encode_answer`) or its words (`texts`, `rated_texts`); `messages` reads conversations and their
roles, `tokens` makes each text's ids once, `labels` says which of them are trained. Columns that are no format become
rows by `templates` ([`ColumnTemplate`]), some of which have names (`presets`); `shapes` says which would fit.
`views` shows people what a row would train on. `validation` encodes validation rows, by group; `batching` makes
batches by a budget of tokens ([`Batch`], [`TokenBudget`]). Imports the ground floor alone.
"""
