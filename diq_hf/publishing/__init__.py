"""A subset in; a dataset repository on the Hub with a card and a proof out, and back again, checked.

`hub` pushes (and pushes again after a conflict), pulls and verifies; `publication` is what one push consists of,
`repository` what is there already, `subset_card` the card. Imports `reporting` and `selection`.
"""
