"""Scoring in chunks of rows: the unit of work, of resuming and of distribution.

A chunk's scores depend on its rows, the model and the validation gradient alone. So chunks that are on disk are not
computed again, whichever process of how many made them, and the columns are bit for bit those of one process.

Processes that hold shards of one model work on each chunk together: all take every chunk, and one of them keeps it.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import config
from datasets.utils import tqdm
from transformers.utils import logging

from ..digest import digest
from ..engine.influence import Direction
from ..engine.tensor_files import load_tensors, save_tensors
from ..files import refuse_address, remove_leftovers
from .mismatch import MismatchNull, calibrate, null_recipe, null_size
from .recipe import half_recipe
from .reliability import HALVES, half_counts, reliability


logger = logging.get_logger(__name__)


def score_in_chunks(
    scorer: Any, dataset: Any, chunk_size: int, cache_dir: str | Path | None, state: Any
) -> dict[str, np.ndarray]:
    """Score columns of a whole dataset, on every process: see [`~diq_hf.DIQScorer.score`]."""
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    state = launched_state(scorer.engine.device, state)
    rank, world = (0, 1) if state is None else (state.process_index, state.num_processes)
    shared = scorer.engine.lockstep.size > 1
    wait = (lambda: None) if state is None else state.wait_for_everyone
    fingerprint = scorer.fingerprint
    root = _root(cache_dir)
    null = _share_null(scorer, dataset, root, rank, wait)
    recipe = digest(["halves-1", fingerprint, dataset._fingerprint, chunk_size, null.digest if null else None])
    folder = root / recipe
    chunks = {folder / _name(rows): rows for rows in _ranges(dataset, chunk_size)}
    difficulty_recipe = _difficulty_recipe(scorer, dataset, chunk_size)
    # Decided by position alone, so that no two processes ever take the same chunk.
    own = list(chunks) if shared else list(chunks)[rank::world]
    missing = [path for path in own if _read(path, recipe, chunks[path]) is None]
    if shared:  # as the first of them sees the disk
        missing = broadcast_object_list([missing])[0]
    # Each process looks at its own chunks and all wait for each other, so that none waits for one that has finished.
    _share_directions(scorer, root, rank, wait)
    hidden = rank > 0 or not missing
    with (
        tqdm(total=len(missing), desc="Chunks", unit=" chunks", disable=hidden) as bar,
        scorer.engine.lockstep.together(),
    ):
        for path in missing:
            rows = chunks[path]
            examples = dataset[rows.start : rows.stop]
            difficulties = None
            if difficulty_recipe is not None:
                difficulties = _difficulties(scorer, root, difficulty_recipe, rows, examples, rank == 0 or not shared)
            columns = scorer.score_batch(examples, rows, difficulties, null, halves=True)
            if rank == 0 or not shared:
                _write(path, columns, recipe, rows)
            bar.update()
    check_unchanged(scorer, fingerprint, missing, "dataset")
    wait()
    if rank == 0:
        for place in (root, folder, *([root / f"difficulty-{difficulty_recipe}"] if difficulty_recipe else [])):
            remove_leftovers(place)
    done = [_read(path, recipe, rows) for path, rows in chunks.items()]
    if lost := [path.name for path, columns in zip(chunks, done, strict=True) if columns is None]:
        raise FileNotFoundError(
            f"{len(lost)} chunks, {lost[0]} among them, are not in {folder}. Every process must see the same "
            "`cache_dir`; run again to compute them."
        )
    names = [*scorer.columns, *({HALVES} & done[0].keys())]
    columns = {name: np.concatenate([chunk[name] for chunk in done]) for name in names}
    difference = columns.pop(HALVES, None)
    if difference is not None:
        first, second = zip(*half_counts(scorer.validation), strict=True)
        scorer.reliability = reliability(columns["influence"], difference, (sum(first), sum(second)))
    return columns


def reusable_difficulty(scorer: Any, dataset: Any, chunk_size: int, cache_dir: str | Path | None) -> np.ndarray:
    """The difficulty of every row by a source that needs no scoring model, kept by chunks like scores."""
    root, recipe = _root(cache_dir), _difficulty_recipe(scorer, dataset, chunk_size)
    found = []
    for rows in tqdm(_ranges(dataset, chunk_size), desc="Difficulty", unit=" chunks"):
        found.append(_difficulties(scorer, root, recipe, rows, dataset[rows.start : rows.stop])["difficulty"])
    return np.concatenate(found)


def _root(cache_dir: str | Path | None) -> Path:
    refuse_address(cache_dir, "cache_dir")
    return Path(config.HF_DATASETS_CACHE) / "diq_hf" if cache_dir is None else Path(cache_dir)


def _ranges(dataset: Any, chunk_size: int) -> list[range]:
    return [range(start, min(start + chunk_size, len(dataset))) for start in range(0, len(dataset), chunk_size)]


def _name(rows: range) -> str:
    return f"{rows.start:012d}.safetensors"


def _difficulty_recipe(scorer: Any, dataset: Any, chunk_size: int) -> str | None:
    """Names what decides the chunks of a reusable source; `None` of any other."""
    recipe = scorer.difficulty_recipe(dataset.column_names)
    return None if recipe is None else digest([recipe, dataset._fingerprint, chunk_size])


def _difficulties(
    scorer: Any, root: Path, recipe: str, rows: range, examples: dict, keep: bool = True
) -> dict[str, np.ndarray]:
    """A chunk's difficulties by a reusable source: found, or computed and, by one process of those that do, kept."""
    path = root / f"difficulty-{recipe}" / _name(rows)
    found = _read(path, recipe, rows)
    if found is None:
        found = scorer.difficulties(examples)
        if keep:
            _write(path, found, recipe, rows)
    return found


def check_unchanged(scorer: Any, fingerprint: str, written: Iterable[Path], what: str) -> None:
    """Drops what was written if the scorer is not the one that its scores are named by.

    Raises:
        `RuntimeError`: It is not.
    """
    if scorer.fingerprint == fingerprint:
        return
    for path in written:
        path.unlink(missing_ok=True)
    raise RuntimeError(
        f"The model or a setting changed while the {what} was scored, so its scores would be a mix; they are dropped. "
        "Score it while nothing else uses the model."
    )


def launched_state(device: torch.device, given: Any = None) -> Any:
    """The processes that are given, else those of `torchrun` or `accelerate launch`: `None` where there is one."""
    if given is not None:
        return given
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if expected == 1:
        return None
    # Processes wait for the slowest one, which may take longer than the few minutes a backend allows by default; a
    # process that dies is the launcher's to notice.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))
    if state.num_processes != expected:
        raise RuntimeError(
            f"The launcher started {expected} processes but accelerate sees {state.num_processes}: something built "
            "its state first, without `cpu=True`. Pass your own `Accelerator` as `accelerator=`."
        )
    return state


def null_of(scorer: Any, dataset: Any, cache_dir: str | Path | None, state: Any) -> MismatchNull:
    """What `mismatch` is held against on a dataset, the same on every process."""
    state = launched_state(scorer.engine.device, state)
    rank, wait = (0, lambda: None) if state is None else (state.process_index, state.wait_for_everyone)
    root = _root(cache_dir)
    return _share_null(scorer, dataset, root, rank, wait)


def share_directions(scorer: Any, cache_dir: str | Path | None, state: Any) -> Path:
    """Gives every process the validation gradients, from the folder that they are kept in, which is returned."""
    state = launched_state(scorer.engine.device, state)
    rank, wait = (0, lambda: None) if state is None else (state.process_index, state.wait_for_everyone)
    root = _root(cache_dir)
    _share_directions(scorer, root, rank, wait)
    return root


def _share_null(scorer: Any, dataset: Any, root: Path, rank: int, wait: Callable[[], None]) -> MismatchNull | None:
    """What `mismatch` is held against: drawn once for the whole dataset, by one process, and kept."""
    if "mismatch" not in scorer.columns:
        return None
    null = scorer.calibration
    if null is None:
        size = null_size(len(dataset))
        recipe = null_recipe(scorer, dataset._fingerprint, size)
        path = root / f"mismatch-{recipe}.safetensors"
        missing = rank == 0 and not _holds_null(path, recipe)
        if scorer.engine.lockstep.size > 1:
            missing = broadcast_object_list([missing])[0]
        if missing:
            null = calibrate(scorer, dataset, size, 0)
            if rank == 0:
                null.save(path, recipe)
        wait()
        null = MismatchNull.load(path, recipe)
    scorer.used_null = null
    return null


def _holds_null(path: Path, recipe: str) -> bool:
    if not path.exists():
        return False
    try:
        MismatchNull.load(path, recipe)
    except ValueError as error:
        logger.warning(f"Calibrating `mismatch` again: {error}")
        return False
    return True


def _share_directions(scorer: Any, root: Path, rank: int, wait: Callable[[], None]) -> None:
    """One process computes the validation gradients, or finds them from an earlier run; all use the same bits.

    They serve every dataset, so each is paid for once.
    """
    recipes = [name for recipe in scorer.direction_recipes() for name in (recipe, half_recipe(recipe))]
    paths = {recipe: root / f"direction-{recipe}.safetensors" for recipe in recipes}
    missing = [recipe for recipe, path in paths.items() if rank == 0 and not _use_direction(scorer, recipe, path)]
    shared = scorer.engine.lockstep.size > 1
    if shared:
        missing = broadcast_object_list([missing])[0]
        for recipe in (recipe for recipe in recipes if rank > 0 and recipe not in missing):
            scorer.use_direction(recipe, Direction.load(paths[recipe], recipe))
    if rank == 0 or shared:
        scorer.half_difference()
        for recipe in missing:
            direction = scorer.direction(recipe)
            if rank == 0 or direction.in_shards:
                direction.save(paths[recipe], recipe)
    wait()
    if rank > 0:
        for recipe, path in paths.items():
            scorer.use_direction(recipe, Direction.load(path, recipe))


def _use_direction(scorer: Any, recipe: str, path: Path) -> bool:
    if not path.exists():
        return False
    try:
        scorer.use_direction(recipe, Direction.load(path, recipe))
    except ValueError as error:
        logger.warning(f"Computing the validation gradient again: {error}")
        return False
    return True


def _write(path: Path, columns: dict[str, np.ndarray], recipe: str, rows: range) -> None:
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    save_tensors(path, tensors, {"recipe": recipe, "rows": [rows.start, rows.stop]})


def _read(path: Path, recipe: str, rows: range) -> dict[str, np.ndarray] | None:
    """A chunk's columns, or `None` if it has to be computed. One that was moved here is another's."""
    try:
        tensors, found = load_tensors(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning(f"Computing a chunk again: {error}")
        return None
    if found != {"recipe": recipe, "rows": [rows.start, rows.stop]}:
        return None
    return {name: tensor.numpy() for name, tensor in tensors.items()}
