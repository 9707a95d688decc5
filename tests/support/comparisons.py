"""Comparisons that nobody ran: losses with known differences and known noise of rows, seeds and the two together."""

from dataclasses import replace

import numpy as np

from diq_hf.comparison.results import ChoiceFacts, Comparison, HeldoutFacts, PoolFacts, RunFacts, Work
from diq_hf.recipe import ModelFacts, Source


STRATEGIES = ("random", "diq", "influence")
NOISE = {"rows": 0.08, "seeds": 0.004, "cells": 0.05}


def made_up(
    strategies=STRATEGIES,
    gains=None,
    groups=(("medquad", 40), ("pubmedqa", 20)),
    ratios=(0.1,),
    seeds=(0, 1, 2),
    noise=NOISE,
    questions=0,
    tasks=(),
    pool_rows=400,
    seed=0,
    full=False,
    **changed,
):
    """`gains` is what a strategy's loss lies above (or below) that of random, by strategy or by (strategy, group)."""
    rng = np.random.default_rng(seed)
    names = np.repeat([name for name, _ in groups], [count for _, count in groups])
    tokens = rng.integers(20, 400, len(names))
    easy = 1.6 + rng.gamma(4, 0.25, len(names))
    trained = rng.integers(10, 500, pool_rows)
    pool_tokens = int(trained.sum())
    runs, choices = [], []
    keys = [(name, ratio) for name in strategies for ratio in ratios] + ([("full", None)] if full else [])
    for name, ratio in keys:
        gain = np.array([(gains or {}).get((name, group), (gains or {}).get(name, 0.0)) for group in names])
        row_part = rng.normal(0, noise["rows"], len(names))
        order = rng.permutation(pool_rows)
        few = ratio is not None and np.searchsorted(np.cumsum(trained[order]), ratio * pool_tokens)
        rows = order[:few] if ratio is not None else order
        taken = int(trained[rows].sum())
        scoring = 0 if name in ("random", "full", "length") else int(2.4 * 3 * pool_tokens)
        selecting = Work(forward=scoring // 3, backward=scoring - scoring // 3, seconds=scoring / 4000)
        choices.append(
            ChoiceFacts(strategy=name, ratio=ratio, rows=tuple(map(int, rows)), tokens=taken, selecting=selecting)
        )
        for at in seeds:
            losses = easy + gain + row_part + rng.normal(0, noise["seeds"])
            losses = losses + rng.normal(0, noise["cells"], len(names))
            runs.append(
                RunFacts(
                    strategy=name,
                    seed=at,
                    ratio=ratio,
                    steps=24 if ratio else 240,
                    rows=len(rows),
                    tokens=taken,
                    losses=tuple(map(float, losses)),
                    correct=tuple(map(float, rng.random(questions) < 0.35)) if questions else None,
                    tasks={task: float(0.4 + rng.normal(0, 0.01)) for task in tasks} or None,
                    training=Work(forward=taken, backward=2 * taken, seconds=taken / 300),
                )
            )
    facts = rng.choice(["clean", "wrong answer", "duplicate"], pool_rows, p=[0.86, 0.07, 0.07])
    facts[0] = "clean"
    made = Comparison(
        digest="0123456789abcdef",
        ratios=tuple(ratios),
        seeds=tuple(seeds),
        strategies=(*strategies, *(["full"] if full else [])),
        pool=PoolFacts(
            num_trained=tuple(map(int, trained)),
            sources=tuple(map(str, rng.choice(["medquad", "pubmedqa", "gsm8k", "code"], pool_rows))),
            quadrants=tuple(map(str, rng.choice(["Q1", "Q2", "Q3", "Q4"], pool_rows))),
            mismatch=tuple(map(float, np.where(facts == "wrong answer", 0.6, 0.05))),
            duplicate_of=tuple(int(rng.integers(0, i)) if fact == "duplicate" else -1 for i, fact in enumerate(facts)),
            facts=tuple(map(str, facts)),
        ),
        heldout=HeldoutFacts(
            groups=tuple(map(str, names)),
            tokens=tuple(map(int, tokens)),
            before=tuple(map(float, easy + 0.2)),
            question_groups=("mmlu",) * questions or None,
            correct_before=(0.0,) * questions or None,
        ),
        choices=tuple(choices),
        runs=tuple(runs),
        epoch=Work(forward=pool_tokens, backward=2 * pool_tokens, seconds=pool_tokens / 300),
        training={"learning_rate": 1e-3, "lora_r": 8},
        model=ModelFacts(name="example/small-instruct", on_hub=True),
        sources={"pool": Source(name="pool.jsonl", on_hub=False, split="train", rows=pool_rows)},
        commands=("diq compare pool.jsonl --model example/small-instruct --heldout heldout.jsonl",),
    )
    return replace(made, **changed)
