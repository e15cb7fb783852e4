"""Atomic checkpoints and bit-exact resume.

Invariant: a folder `checkpoint-N` is always complete, whichever process dies and whenever. A checkpoint is
written into `.saving`, listed file by file in its `whole.json`, synced to disk and renamed. transformers
saves the weights, the optimizer, the scheduler and every rank's random states. In addition, each rank saves
what its trainer keeps in memory only (`ResumableMixin.unsaved_state`), such as micro-batches that are still
to be trained, and the metrics of an unfinished logging window. The order of the data depends only on (seed,
epoch), and the sampler is given the epoch.
"""

import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from rft.errors import CheckpointError, DataError, RecipeError
from rft.records.base import read_json
from rft.records.training import Manifest
from rft.runs.model_card import write_card
from rft.runs.run_spec import RunSpec
from rft.runs.tracking import provenance

logger = logging.getLogger(__name__)

STAGING = ".saving"
WHOLE = "whole.json"
STATE = "trainer_state.json"


class ResumableMixin(Trainer):
    """Mixin before a transformers or TRL trainer: its checkpoints are atomic and contain all of its state."""

    identity: RunSpec | None = None
    counters: tuple[str, ...] = ("_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step")
    """Attributes that a trainer keeps in memory only; those that it has are saved."""

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self.__dict__.get("_saving") else folder

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Trains an epoch, but no step beyond the last: transformers takes one more if a finished run is
        resumed."""
        if self.state.global_step >= self.state.max_steps:
            logger.info(
                "step %d of %d: nothing is left to train", self.state.global_step, self.state.max_steps
            )
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staged = run / STAGING / name
        if self.args.should_save:
            shutil.rmtree(run / STAGING, ignore_errors=True)
            staged.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        torch.save(self._rank_state(), staged / _state_name(self.args.process_index))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._finish(staged, run / name)
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes our model card instead of TRL's: with checkpoints, at the end, and for the Hub."""
        if self.identity is not None and self.is_world_process_zero():
            write_card(Path(str(self.args.output_dir)), self.identity, provenance(self.identity.data_sha256))

    def _finish(self, staged: Path, final: Path) -> None:
        """Turns the staged files into a checkpoint: manifest, sync to disk, rename."""
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == staged:
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(staged / STATE))
        files = {str(path.relative_to(staged)): path for path in sorted(staged.rglob("*")) if path.is_file()}
        manifest = Manifest(
            step=self.state.global_step,
            identity=self.identity.record() if self.identity else None,
            files={name: (path.stat().st_size, checksum(path)) for name, path in files.items()},
        )
        (staged / WHOLE).write_text(manifest.to_text(), encoding="utf-8")
        for path in [*files.values(), staged / WHOLE, *(p for p in staged.rglob("*") if p.is_dir()), staged]:
            sync(path)
        if final.exists():  # from before a resume: damaged, or later than the resume point
            shutil.rmtree(final)
        staged.rename(final)
        sync(final.parent)

    def unsaved_state(self) -> dict[str, Any]:
        """Returns state that a subclass keeps in RAM only, as plain values and tensors; each rank saves its
        own."""
        return {}

    def recall_unsaved(self, state: Mapping[str, Any]) -> None:
        """Restores what `unsaved_state` returned."""

    def _rank_state(self) -> dict[str, Any]:
        """State that this rank's trainer keeps in RAM only, as plain values and tensors."""
        counters = {name: getattr(self, name) for name in self.counters if hasattr(self, name)}
        return counters | {"_tr_loss": self._tr_loss.detach().cpu()} | self.unsaved_state()

    def recall(self, checkpoint: Path) -> None:
        """Restores the state that `_rank_state` saved for this rank.

        Raises:
            CheckpointError: If the checkpoint has no state file for this rank.
        """
        # torch cannot load to a device named cpu:0
        device = "cpu" if self.args.device.type == "cpu" else self.args.device
        path = checkpoint / _state_name(self.args.process_index)
        if not path.exists():
            raise CheckpointError(
                f"{checkpoint}: no {path.name}; it was written by fewer processes, or by rft before"
                " 2026-11-27 (commit 0f2c572 or older): resume it with as many processes, or with that"
                " version of rft"
            )
        state = torch.load(path, map_location=device, weights_only=True)
        for name in self.counters:
            if name in state:
                setattr(self, name, state[name])
        self._tr_loss = state["_tr_loss"].to(self.args.device)
        self.recall_unsaved(state)


def sync(path: Path) -> None:
    """Flushes a file or folder to disk and waits for it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _state_name(rank: int) -> str:
    return f"trainer_state_{rank}.pt"


class RecallCallback(TrainerCallback):
    """Restores the trainer's state when training begins, and sets the sampler's epoch when an epoch begins.

    It reaches the sampler through accelerate's wrappers: with several processes and skipped batches,
    accelerate does not set the epoch itself.
    """

    def __init__(self, trainer: ResumableMixin, checkpoint: Path | None):
        self.trainer, self.checkpoint = trainer, checkpoint

    def on_train_begin(self, args, state, control, **kwargs):
        """Restores the trainer's state."""
        if self.checkpoint is not None:
            self.trainer.recall(self.checkpoint)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Sets the epoch of every sampler in the data loader."""
        epoch = int(state.epoch or 0)
        for sampler in _samplers(train_dataloader):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            # TRL's, which would continue where it stopped
            elif isinstance(getattr(sampler, "generator", None), torch.Generator):
                sampler.generator.manual_seed(args.seed + epoch)


def _samplers(loader: Any) -> Iterator[Any]:
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None) or getattr(sampler, "batch_sampler", None)


def checksum(path: Path) -> str:
    """Returns the CRC-32 of a file in hexadecimal; it detects damage, not tampering."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a checkpoint folder. Raises DataError if it is broken."""
    return read_json(folder / WHOLE, Manifest, "name another checkpoint")


def damage(folder: Path) -> str | None:
    """Describes what is wrong with a checkpoint folder; None if it is complete."""
    if not (folder / WHOLE).exists():
        return f"no {WHOLE}"
    try:
        manifest = read_manifest(folder)
    except DataError:
        return f"{WHOLE} cannot be read"
    for name, (size, crc) in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
        if checksum(path) != crc:
            return f"{name} does not match its checksum"
    return None


def checkpoints(run: Path) -> list[Path]:
    """Lists the checkpoint folders of a run, newest first."""
    folders = [
        p for p in run.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(folders, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)


def newest_whole(run: Path) -> Path | None:
    """Finds the newest complete checkpoint of a run; logs each one that it skips, with the reason."""
    for folder in checkpoints(run):
        wrong = damage(folder)
        if wrong is None:
            return folder
        logger.warning("resume: skipping %s: %s", folder.name, wrong)
    return None


def resume_point(args: Any, identity: RunSpec) -> Path | None:
    """Chooses the checkpoint to resume from; the first process decides for all.

    Args:
        args: the training arguments. `resume_from_checkpoint` names a folder, or is true for the newest
            complete checkpoint in output_dir.
        identity: the spec of this run.

    Returns:
        The checkpoint's folder; None to start from the beginning.

    Raises:
        CheckpointError: If the checkpoint is damaged or is from a different run, or if output_dir contains
            checkpoints and `resume_from_checkpoint` is not set.
        RecipeError: If the named folder does not exist.
    """
    decided: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            decided[0] = _resume_point(args, identity)
        except (CheckpointError, RecipeError) as error:
            decided[1] = error
    broadcast_object_list(decided)
    if decided[1] is not None:
        raise decided[1]
    return decided[0]


def _resume_point(args: Any, identity: RunSpec) -> Path | None:
    requested, run = args.resume_from_checkpoint, Path(args.output_dir)
    if requested in (None, False, "false", "False"):
        if earlier := checkpoints(run):
            raise CheckpointError(
                f"{run} contains {earlier[0].name} of an earlier run: add --resume_from_checkpoint true to"
                " resume from it, or name another output_dir"
            )
        return None
    if requested in (True, "true", "True"):
        folder = newest_whole(run)
        if folder is None:
            logger.info("resume: no complete checkpoint in %s, starting from the beginning", run)
            return None
    else:
        folder = Path(requested)
        if not folder.is_dir():
            raise RecipeError(
                f"resume_from_checkpoint {requested}: no such folder; name a checkpoint-N folder, or true for"
                " the newest one"
            )
        if wrong := damage(folder):
            raise CheckpointError(
                f"{folder}: {wrong}; name another checkpoint, or true for the newest complete one"
            )
    written = read_manifest(folder).identity
    if written is not None:
        if written.recipe.get("save_only_model"):
            raise CheckpointError(
                f"{folder} contains no optimizer state (save_only_model: true), so a run cannot resume from"
                f" it; start a new run with --model_name_or_path {folder}"
            )
        for difference in identity.check_goes_on(written, str(folder), args.allow_change):
            logger.warning("resume: changed, as allowed: %s", difference)
    logger.info("resume: %s", folder)
    return folder
