"""A dataset in, the same dataset with score columns out.

`scorer` is [`DIQScorer`], what `datasets.map` calls, `whole` its methods for a whole dataset, and `gradients` what it
knows of the validation rows; `examples` reads what `map` hands over and `workers` what it forks, `columns` makes score
columns of rows, `recipe` names what decided them. `chunks` scores long jobs piece by piece, on many processes, and
goes on where a killed run stopped, in a folder or a bucket (`buckets`); `streams` does so with streams, into the files
of `shards`. `mismatch` tests whether an answer belongs to its prompt, `alignment` says which validation rows a row is
near to, `reliability` how far ranks hang on them. `selecting` chooses a subset without scoring every row: by
`drawing`, or by the search in `landmarks`, by guesses of `predictors` over the `features` of a row's text, and the
`audit` of what it found. Imports `difficulty`, `engine`, `selection` and `rows`.
"""
