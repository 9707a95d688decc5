"""Rows in, one number each out: how much knowledge and reasoning a row needs.

`sources` holds what `difficulty=` may name (IFD, loss, length, a column, a classifier), `answers` an answer's losses
with and without its prompt; `levels` says what a level is, `classifier` runs a difficulty classifier, whose `heads`
are its classes in order, `classifier_training` trains one, `holdout` sets rows aside for that, `agreement` says how
good its levels are and `classifier_card` writes it down. Imports `engine` and `rows`.
"""
