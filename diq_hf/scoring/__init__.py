"""A dataset in, the same dataset with score columns out.

`scorer` is [`DIQScorer`], what `datasets.map` calls; `chunks` scores long jobs piece by piece, on many processes, and
goes on where a killed run stopped; `columns` makes rows into score columns, `examples` reads what `map` hands over,
`recipe` names what decides the scores. `mismatch` tells answers that belong to another prompt, `reliability` says how
sure the ranks are; `selecting` chooses rows without scoring all of them, by the search of `landmarks` over the
`features` of texts. Imports `difficulty`, `engine`, `selection` and `rows`.
"""
