"""Activations made again in the backward pass, a layer at a time, where there is no memory to keep them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .modes import evaluating
from .sharding import Sharding, device_of
from .zero import shape_of


logger = logging.get_logger(__name__)

FLAGS = ("gradient_checkpointing", "_gradient_checkpointing_func", "training")


class Recomputing:
    """Gradient checkpointing while rows are scored, by the means of transformers' own layers.

    Such a layer checkpoints in training mode only. What is inside it stays in eval mode, and whether that makes it
    compute the same is tried before it is relied on.

    Args:
        decoder ([`~transformers.PreTrainedModel`]):
            The language model, whose layers they are.
        sharding ([`~diq_hf.engine.sharding.Sharding`]):
            How its weights lie.
    """

    def __init__(self, decoder: nn.Module, sharding: Sharding):
        self.decoder, self.sharding = decoder, sharding
        self.layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.wanted = False
        self._former: list[tuple[nn.Module, dict]] | None = None

    def __call__(self, switch: bool) -> bool:
        """What helps where a row does not fit: whether activations can be made again and are not yet; with `switch`,
        from now on they are.

        Raises:
            `RuntimeError`: The layers compute something else then.
        """
        if not switch or self.wanted:
            return bool(self.layers) and not self.wanted
        try:
            self._try()
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            raise RuntimeError(
                "A row does not fit into memory alone, nor do a few tokens with activations that are made again. "
                "Lower `max_length`, or use a smaller dtype or a larger device."
            ) from error
        self.wanted = True
        self._turn_on()
        logger.warning(
            "A row does not fit into memory alone: activations are made again in the backward pass from here on, "
            "which takes about half as long again. Scores stay the same."
        )
        return True

    def prefer(self) -> None:
        """From the start, where it can be done: the graph of a whole pass would hold on to every offloaded weight."""
        if self.layers:
            with self.applied():
                try:
                    self._try()
                    self.wanted = True
                except RuntimeError as error:
                    logger.info(f"Every layer's weights stay until the backward pass. {error}")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The layers get their own flags back, whatever happens."""
        self._former = [(layer, {flag: getattr(layer, flag, None) for flag in FLAGS}) for layer in self.layers]
        try:
            if self.wanted:
                self._turn_on()
            yield
        finally:
            self._turn_off()
            self._former = None

    def _turn_on(self) -> None:
        for layer in self.layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def _turn_off(self) -> None:
        for layer, flags in self._former or ():
            for flag, value in flags.items():
                setattr(layer, flag, value)

    @torch.no_grad()
    def _try(self) -> None:
        embeddings = self.decoder.get_input_embeddings()
        ids = torch.arange(1, 14, device=device_of(embeddings))[None] % shape_of(embeddings.weight)[0]

        def hidden() -> torch.Tensor:
            return self.decoder(input_ids=ids, use_cache=False).last_hidden_state

        with evaluating(self.decoder):
            plain = self.sharding.forward(hidden)
            self._turn_on()
            again = self.sharding.forward(hidden)
            self._turn_off()
        if not bool((plain - again).norm() <= 4 * torch.finfo(plain.dtype).eps * plain.norm()):
            raise RuntimeError(
                "A row does not fit into memory alone, and this model's layers compute something else in training "
                "mode, so their activations cannot be made again. Lower `max_length`, or use a larger device."
            )
