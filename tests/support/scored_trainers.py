"""Trainers as they stand at their first step, the scorer of their rows, and the gradients of their own loss."""

import numpy as np
import torch
from trainings import PLAIN, make_trainer
from trl import SFTConfig, SFTTrainer

from diq_hf.training.rescoring import TrainerScorer


def about_to_train(trainer):
    """The loader that the trainer makes before its first step."""
    trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
    return trainer


def make_scorer(kind, rows, validation, folder, difficulty=None, **settings):
    trainer = about_to_train(make_trainer(kind, rows, validation, folder, None, **settings))
    return TrainerScorer(trainer, trainer.model, difficulty=difficulty)


def sft_trainer(model, tokenizer, rows, validation, folder, own=SFTTrainer, settings=None, **arguments):
    """With a tokenizer, a class or arguments of the test's own."""
    args = SFTConfig(**PLAIN | {"output_dir": str(folder), "per_device_train_batch_size": 2} | (settings or {}))
    shared = {"train_dataset": rows, "eval_dataset": validation, "processing_class": tokenizer}
    return about_to_train(own(model, args, **shared, **arguments))


def own_gradient(trainer, names, row):
    """Gradient and value of the trainer's own loss on one row, by plain autograd."""
    parameters = [trainer.model.get_parameter(name) for name in names]
    for parameter in parameters:
        parameter.requires_grad_(True)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, dict(trainer.callback_handler.train_dataloader.collate_fn([row])))
    parts = torch.autograd.grad(loss, parameters)
    return torch.cat([part.flatten().double() for part in parts]), float(loss)


def own_influences(scorer):
    """What the scorer should find: products of the gradients of the trainer's own loss, one row at a time."""
    trainer = scorer.trainer
    names = [f"{name}.weight" for name in scorer.engine.modules]
    rows = trainer.callback_handler.train_dataloader.dataset
    validation = trainer.get_eval_dataloader().dataset
    direction = sum(own_gradient(trainer, names, row)[0] for row in validation) / len(validation)
    found = [own_gradient(trainer, names, row) for row in rows]
    return np.array([float(gradient @ direction) for gradient, _ in found]), np.array([loss for _, loss in found])
