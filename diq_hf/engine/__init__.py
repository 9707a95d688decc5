"""A model and encoded rows in; losses, validation gradients and exact influences out. Tensors alone.

`influence` is the way in ([`InfluenceEngine`], [`Direction`], [`scoring_mode`]). `loss` computes row losses without
keeping logits, `probes` reads gradients as they pass, `attention` keeps packed rows apart, `modules` says which
weights are scored and which models are refused, `projections` shrinks gradients, `loading` loads models by name.
Imports `rows`.
"""
