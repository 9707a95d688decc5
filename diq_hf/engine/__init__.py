"""A model and encoded rows in; losses, validation gradients and exact influences out. Tensors alone.

`influence` is the way in ([`InfluenceEngine`], [`Direction`], [`scoring_mode`]). `direction` is the validation
gradient in memory and on disk, `passes` runs the model over rows, `loss` computes row losses without keeping logits,
`probes` reads gradients as they pass, `attention` keeps packed rows apart, `modes` gives a model its mode back,
`positions` says how long a row may be, `modules` which weights are scored, `sharding` where they lie and which models
are refused, `zero` knows DeepSpeed's shards, `lockstep` keeps processes together that share a model, `spread` holds
directions where weights lie, `memory` says what is taken and `recomputing` takes less, `projections` shrinks
gradients, `loading` loads models by name. Imports `rows`.
"""
