"""Scores in; quadrants, ranks and chosen rows out. Numbers and plain texts, no model.

`select` holds the choice ([`select_subset`]) and tells every row why it was not taken. What it is made of: `settings`
(what was asked for), `quadrants` (the rule, [`QuadrantRule`]), `ranking` (who comes first), `turns` (by the choices of
validation rows), `budgets` (how much, and what a row is worth), `quotas` (fair shares), `duplicates` on `shingles` of
`texts` (what is there twice), `scores` (columns as numbers). `leakage` finds rows of one dataset in another
([`find_leaks`]), `proof` derives a published selection again from its scores. Imports the ground floor alone.
"""
