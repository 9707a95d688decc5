"""A model and encoded rows in; losses, validation gradients and exact influences out. Tensors alone.

`influence` is the way in ([`InfluenceEngine`], [`Direction`], [`scoring_mode`]). `direction` is the validation
gradient in memory and on disk, `loss` computes row losses without keeping logits, `probes` reads gradients as they
pass, `attention` keeps packed rows apart, `modes` gives a model its mode back, `positions` says how long a row may be,
`modules` which weights are scored and which models are refused, `projections` shrinks gradients, `loading` loads
models by name. Imports `rows`.
"""
