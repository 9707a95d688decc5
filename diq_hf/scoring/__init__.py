"""A dataset in, the same dataset with score columns out.

`scorer` is [`DIQScorer`], what `datasets.map` calls; `chunks` scores long jobs piece by piece, on many processes, and
goes on where a killed run stopped; `columns` makes rows into score columns, `examples` reads what `map` hands over,
`recipe` names what decides the scores. Imports `difficulty`, `engine` and `rows`.
"""
