"""Cross-entropy summed over each row's trained tokens, the language-model head applied at those alone, in chunks."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ..rows.batching import Batch
from ..rows.encoded import IGNORE_INDEX
from .modes import evaluating
from .modules import computed_dtype
from .sharding import Sharding, device_of
from .zero import shape_of


# Logits held at once: 2**24 fp32 values are 64 MiB, and large enough for a CPU's matrix product to run at full speed.
LOGITS_PER_CHUNK = 2**24
# Accelerators take so many times as many.
LARGER_CHUNKS = 4
# What models call the cap on their logits, and the factors on them (or their inverse).
CAPS = ("final_logit_softcapping", "logits_soft_cap", "softcap")
FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class RowLoss:
    """Computes l(z): each row's cross-entropy, summed over its trained tokens.

    The backbone gives hidden states, and the head turns only those before a trained token into logits, a chunk at a
    time, so memory does not grow with the vocabulary. Reductions are in fp32 (fp64 for an fp64 model).

    How a model scales its logits is found by comparing with its own forward pass, not by its name.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model.
        sharding ([`~diq_hf.engine.sharding.Sharding`]):
            How its weights lie. They are whole while this is made.
        reweight (`Callable`, *optional*):
            Gives each token's weight, a constant, from its cross-entropy, for trainings that count tokens unequally.

    Raises:
        `ValueError`: The head is not a plain matrix, the model's logits are not a scaled and capped product of it, or
            the model is not causal.
    """

    def __init__(
        self,
        model: nn.Module,
        sharding: Sharding,
        reweight: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.sharding, self.reweight = sharding, reweight
        causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.backbone = causal_lm.base_model
        self.decoder = causal_lm.get_decoder()
        self.head = _plain(causal_lm.get_output_embeddings())
        if self.head is None or self.backbone is causal_lm or causal_lm.config.is_encoder_decoder:
            raise ValueError(
                f"{type(causal_lm).__name__} is no decoder with a language-model head: pass a causal language model."
            )
        if (
            not isinstance(getattr(self.head, "weight", None), torch.Tensor)
            or not self.head.weight.is_floating_point()
        ):
            raise ValueError(
                f"The output embeddings are a {type(self.head).__name__}, not a plain matrix. Leave `lm_head` out of "
                "quantization and of the adapter's `target_modules`."
            )
        config = causal_lm.config.get_text_config()
        caps, factors = (
            [value for name in names if isinstance(value := getattr(config, name, None), int | float) and value]
            for names in (CAPS, FACTORS)
        )
        self.softcap = caps[0] if caps else None
        self.scale = self._find_scale(causal_lm, [1.0, *factors, *(1 / factor for factor in factors)])

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Sum of each row's token losses.

        Args:
            batch ([`Batch`]):
                Rows, padded or packed.

        Returns:
            `torch.Tensor` of shape `(rows,)`: sums in nats, differentiable with respect to the hidden states.
        """
        return self.sharding.inside(lambda: self._sums(batch))

    def _sums(self, batch: Batch) -> torch.Tensor:
        hidden = self.backbone(**batch.model_inputs).last_hidden_state
        device = device_of(self.head)
        labels = batch.labels.to(device)
        trained = labels != IGNORE_INDEX
        trained[:, 0] = False  # nothing before it predicts it
        losses = self.weighted(self.token_losses(hidden.to(device)[trained.roll(-1, dims=1)], labels[trained]))
        return batch.row_sums(losses.new_zeros(labels.shape).masked_scatter(trained, losses))

    def weighted(self, losses: torch.Tensor) -> torch.Tensor:
        """Token losses as they count in training."""
        return losses if self.reweight is None else losses * self.reweight(losses.detach())

    @contextmanager
    def plain(self):
        """The cross-entropy itself, however tokens are weighted otherwise."""
        reweight, self.reweight = self.reweight, None
        try:
            yield
        finally:
            self.reweight = reweight

    def token_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each hidden state, of shape `(tokens, hidden_size)`, for its target, in nats."""
        with self.sharding.whole(self.head):
            # Under autocast every product would cast the whole head anew.
            dtype = computed_dtype(self.head.weight)
            weight, bias = (
                p if p is None else p.to(dtype) for p in (self.head.weight, getattr(self.head, "bias", None))
            )
            return _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, self.scale, self.softcap)

    @torch.no_grad()
    def _find_scale(self, causal_lm: nn.Module, candidates: list[float]) -> float:
        """The factor on the logits that gives the model's own, seen on a few tokens; also looks that it is causal."""
        embeddings = causal_lm.get_input_embeddings()
        input_ids = torch.arange(1, 9, device=device_of(embeddings))[None] % shape_of(embeddings.weight)[0]
        with evaluating(causal_lm):
            expected = causal_lm(input_ids=input_ids, use_cache=False).logits[0].float()
            hidden = self.backbone(input_ids=input_ids, use_cache=False).last_hidden_state[0]
            otherwise = torch.cat([input_ids[:, :4], input_ids[:, :4]], dim=1)  # as it starts, and as it does not end
            start = self.backbone(input_ids=otherwise, use_cache=False).last_hidden_state[0, :4].cpu().double()
        if not bool(hidden.isfinite().all() & expected.isfinite().all()):
            broken = [name for name, weight in causal_lm.named_parameters() if not bool(weight.isfinite().all())]
            what = f"the parameter {broken[0]!r} is not finite" if broken else "its dtype overflows"
            more = f", nor are {len(broken) - 1} others" if len(broken) > 1 else ""
            raise ValueError(
                f"{type(causal_lm).__name__} gives outputs that are not finite: {what}{more}. Load a checkpoint that "
                "did not diverge, or another dtype (fp16 overflows where bf16 and fp32 do not)."
            )
        with self.sharding.whole(self.head):
            weight, bias = self.head.weight, getattr(self.head, "bias", None)
            hidden = hidden.to(weight.device)
            found = [_logits(hidden, weight, bias, factor, self.softcap).float() for factor in candidates]
            epsilon = torch.finfo(computed_dtype(weight)).eps
        name = type(causal_lm).__name__
        if not bool(((hidden[:4].cpu().double() - start).norm(dim=1) <= 4 * epsilon * start.norm(dim=1)).all()):
            raise ValueError(
                f"{name} looks at later tokens: it is not causal, so padding would change its scores. Pass a causal "
                "language model."
            )
        errors = [float((logits - expected.to(logits.device)).abs().max()) for logits in found]
        best = min(range(len(candidates)), key=errors.__getitem__)
        if not errors[best] <= 4 * epsilon * (1 + float(expected.abs().max())):
            raise ValueError(
                f"{name} does not make its logits from its hidden states in a way known here (off by "
                f"{errors[best]:.2g} with `softcap={self.softcap}`, scales {candidates}), so its loss would be wrong. "
                "Please open an issue with the model's name."
            )
        return candidates[best]


def _plain(head: nn.Module | None) -> nn.Module | None:
    """The head without what PEFT wraps around it.

    Raises:
        `ValueError`: It carries an adapter of its own.
    """
    if isinstance(head, ModulesToSaveWrapper):
        copies = [] if head.disable_adapters else head.active_adapters
        head = head.modules_to_save[copies[0]] if copies else head.original_module
    if isinstance(head, BaseTunerLayer) and not head.merged:
        raise ValueError(
            "The output embeddings carry an adapter, and influence needs them as one matrix. Merge it with "
            "`model.merge_and_unload()`, or leave `lm_head` out of `target_modules`."
        )
    return head


def _logits(hidden, weight, bias, scale, softcap):
    logits = nn.functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each hidden state. The gradient is formed beside the loss, so no logits outlive their chunk."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, softcap):
        chunk = max(1, LOGITS_PER_CHUNK * (1 if weight.device.type == "cpu" else LARGER_CHUNKS) // len(weight))
        wants_gradient = ctx.needs_input_grad[0]
        losses = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        gradient = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, bias, scale, softcap)
            target = targets[part, None]
            at_target = logits.gather(1, target)
            top = logits.amax(dim=1, keepdim=True)
            cap_slope = None if softcap is None else 1 - (logits / softcap).square()
            exp = logits.sub_(top).exp_()
            total = exp.sum(dim=1, keepdim=True)
            losses[part] = (total.log() + top - at_target).squeeze(1)
            if wants_gradient:
                slopes = exp.div_(total).scatter_add_(1, target, torch.full_like(at_target, -1.0))
                if cap_slope is not None:
                    slopes.mul_(cap_slope)
                if scale != 1.0:
                    slopes.mul_(scale)
                gradient[part] = slopes.to(weight.dtype) @ weight
        if wants_gradient:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx, grad_losses):
        (gradient,) = ctx.saved_tensors
        # The product is rounded once: a 1/n rounded to bf16 first would shift the weight of a whole row.
        return (gradient * grad_losses[:, None]).to(gradient.dtype), None, None, None, None, None
