"""A subset in; a dataset repository on the Hub with a card and a proof out, and back again, checked.

`hub` pushes, pulls and verifies, `commits` pushes again after a conflict, `space` publishes a report; `publication` is
what one push consists of, `subset_card` the card, of `sections`, in which `markdown` shows the texts of others,
`readme` its YAML head, `privacy` what must not get out; `repository` is what is there already, `checks` holds it
against what it says, `contents` the rows against their digests. Imports `reporting` and `selection`.
"""
