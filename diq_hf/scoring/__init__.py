"""A dataset in, the same dataset with score columns out.

`scorer` is [`DIQScorer`], what `datasets.map` calls, and `whole` its methods for a whole dataset; `examples` reads
what `map` hands over, `columns` makes score columns of rows, `recipe` names what decided them. `chunks` scores long
jobs piece by piece, on many processes, and goes on where a killed run stopped; `streams` does so with streams, into
the files of `shards`. `mismatch` tests whether an answer
belongs to its prompt, `reliability` how far ranks hang on the validation rows. `selecting` chooses a subset without
scoring every row, by the search in `landmarks` over the `features` of a row's text. Imports `difficulty`, `engine`,
`selection` and `rows`.
"""
