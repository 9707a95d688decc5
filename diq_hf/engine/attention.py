"""Attention over rows that stand side by side in one sequence, each looking at itself alone."""

from collections.abc import Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from ..rows.batching import Batch
from ..rows.encoded import EncodedRow
from .modes import evaluating
from .modules import computed_dtype
from .sharding import device_of
from .zero import shape_of


logger = logging.get_logger(__name__)

NAME = "diq_packed_sdpa"


def packed_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA attention, row by row: causal kernels without a mask, and no work between rows.

    Arguments and result are those of every [`~transformers.AttentionInterface`] function; `cu_seq_lens_q` holds the
    rows' starts and the end.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    starts = cu_seq_lens_q.tolist()
    lengths = [end - start for start, end in pairwise(starts)]
    masks: Sequence[torch.Tensor | None] = [None] * len(lengths)
    if attention_mask is not None:
        masks = [attention_mask[:, :, a:b, a:b] for a, b in pairwise(starts)]
    # `split` has one backward for all rows; slices would each fill a gradient of the whole length.
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), masks, strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, **kwargs)[0] for part in parts], dim=1), None


def packed_mask(
    *args: Any, q_length: int, local_size: int | None = None, use_vmap: bool = False, **kwargs: Any
) -> torch.Tensor | None:
    """No mask where rows are causal and nothing else; a window shorter than the sequence is transformers' own."""
    if not use_vmap and (local_size is None or local_size >= q_length):
        return None
    return sdpa_mask(*args, q_length=q_length, local_size=local_size, use_vmap=use_vmap, **kwargs)


AttentionInterface.register(NAME, packed_sdpa)
AttentionMaskInterface.register(NAME, packed_mask)


class Packing:
    """How a model takes packed rows, if it does.

    Varlen flash attention does it by itself, its own library's and the kernels of the Hub; FlexAttention does it by
    the block-diagonal mask that transformers makes of positions that begin anew. SDPA does it by [`packed_sdpa`], on a
    CPU, where its kernels are not held up by many small calls and FlexAttention has no backward pass. Others pad.

    Whether the model then gives each row what it gives it alone, and takes a gradient, is tried on a few tokens:
    models with convolutions or recurrences over the sequence do not, and are padded. Which it is, is logged.

    Args:
        backbone ([`~transformers.PreTrainedModel`]):
            What turns tokens into hidden states.
        decoder ([`~transformers.PreTrainedModel`]):
            The language model in it, without a vision tower; often the same.
    """

    def __init__(self, backbone: nn.Module, decoder: nn.Module):
        self.backbone, self.decoder = backbone, decoder
        used = decoder.config._attn_implementation or ""
        device = device_of(decoder.get_input_embeddings())
        own = device.type == "cpu" and used in ("sdpa", "flex_attention")
        self.implementation = NAME if own else used if "flash" in used or used == "flex_attention" else None
        self.possible, reason = self.implementation is not None, f"`{used}` on {device.type} takes no packed rows"
        if self.possible:
            try:
                self._try()
                self._try_backward()
            # Whatever a model does with arguments it does not know: padding serves it as well.
            except Exception as error:
                self.possible, reason = False, str(error)
        if self.possible:
            logger.info(f"Rows are packed side by side, by `{self.implementation}`.")
        else:
            logger.info(
                f"Rows are padded, not packed: {reason}. `attn_implementation` of `flash_attention_2`, "
                "`kernels-community/flash-attn2` or `flex_attention` packs them on a GPU."
            )

    @contextmanager
    def applied(self):
        """The model with the attention that packed rows need; it gets its own back, whatever happens."""
        used = self.decoder.config._attn_implementation
        if not self.possible or self.implementation == used:
            yield
            return
        try:
            self.decoder.set_attn_implementation(self.implementation)
            yield
        finally:
            self.decoder.set_attn_implementation(used)

    @torch.no_grad()
    def _try(self) -> None:
        """
        Raises:
            `ValueError`: A packed row is not what it is alone.
        """
        embeddings = self.decoder.get_input_embeddings()
        weight, device = embeddings.weight, device_of(embeddings)
        ids = torch.arange(1, 20).numpy() % shape_of(embeddings.weight)[0]
        first, other, second = (EncodedRow(part, part) for part in (ids[:7], ids[12:], ids[7:12]))

        def hidden(rows: list[EncodedRow], packed: bool) -> torch.Tensor:
            batch = Batch.of(rows, packed, device)
            return batch.rows(self.backbone(**batch.model_inputs).last_hidden_state)[-1].cpu().double()

        with evaluating(self.backbone):
            with self.applied():
                if self.decoder.config._attn_implementation != self.implementation:
                    raise ValueError("the model's attention cannot be chosen")
                packed, beside_another = hidden([first, second], True), hidden([other, second], True)
            alone = hidden([second], False)
        epsilon = torch.finfo(computed_dtype(weight, device)).eps
        norms = alone.norm(dim=1)
        # The same operations on the same row, whatever stands before it: nothing is left to rounding.
        if not bool(((packed - beside_another).norm(dim=1) <= 4 * epsilon * norms).all()):
            raise ValueError("the model mixes packed rows")
        # Other shapes round otherwise, but a row that is taken for the end of another is far off.
        if not bool(((packed - alone).norm(dim=1) <= epsilon**0.5 * norms).all()):
            raise ValueError("the model does not take positions as they are given")

    def _try_backward(self) -> None:
        """
        Raises:
            `Exception`: Whatever the attention does where it has no gradient. Other models' than FlexAttention have.
        """
        if self.implementation != "flex_attention":
            return
        embeddings = self.decoder.get_input_embeddings()
        leaves: list[torch.Tensor] = []

        def cut(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[0]

        ids = torch.arange(1, 20).numpy() % shape_of(embeddings.weight)[0]
        rows = [EncodedRow(part, part) for part in (ids[:7], ids[7:12])]
        batch = Batch.of(rows, True, device_of(embeddings))
        handle = embeddings.register_forward_hook(cut)
        try:
            with evaluating(self.backbone), self.applied(), torch.enable_grad():
                hidden = self.backbone(**batch.model_inputs).last_hidden_state
                (gradient,) = torch.autograd.grad(hidden[0, 7:].float().sum(), leaves)
        finally:
            handle.remove()
        if bool((gradient[0, :7] != 0).any()):
            raise ValueError("the model mixes packed rows")
