"""Scores in; quadrants, ranks and chosen rows out. Numbers only, no model.

`quadrants` holds the rule ([`QuadrantRule`]) and the choice ([`select_subset`]); `duplicates` finds texts that are
there twice; `proof` derives a published selection again from its scores. Imports the ground floor alone.
"""
