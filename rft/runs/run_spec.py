"""Spec of a run: its resolved recipe, its data and its number of processes.

Invariant: two runs with the same spec compute the same results. Only what can change a result is compared;
output folders, logging and the frequency of checkpoints are not.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rft.errors import CheckpointError, RecipeError
from rft.records.training import RunRecord

RESULT_NEUTRAL_FIELDS = {  # fields that cannot affect a weight, completion or metric
    "output_dir",
    "resume_from_checkpoint",
    "allow_change",
    "dry_run",
    "dry_run_on",
    "stall_minutes",
    "run_name",
    "project",
    "report_to",
    "token_cache",
    "data",
    "local_rank",
    "logging_dir",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "disable_tqdm",
    "logging_steps",
    "logging_strategy",
    "logging_first_step",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "log_completions",
    "num_completions_to_print",
    "log_unique_prompts",
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_revision",
    "hub_always_push",
    "ddp_timeout",
    "reward_seconds",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "include_num_input_tokens_seen",
}
SECRETS = ("token", "key", "password")
"""A field whose name ends in one of these is never recorded."""


def plain(value: Any) -> Any:
    """Converts a value that JSON cannot encode: a path, an enum or another object."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "value"):  # an enum
        return value.value
    return vars(value) if hasattr(value, "__dict__") else str(value)


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the results of a run.

    Attributes:
        recipe: field -> value.
        data_sha256: hash of the training split.
        processes: number of processes.
    """

    recipe: dict[str, JsonValue]
    data_sha256: str
    processes: int

    @classmethod
    def of(cls, *parts: Any, data_sha256: str) -> "RunSpec":
        """Makes the spec from a run's dataclasses, with every field as plain JSON; one of them is the
        training arguments."""
        recipe: dict[str, Any] = {}
        for part in parts:
            recipe |= {
                f.name: getattr(part, f.name) for f in fields(part) if f.init and not f.name.endswith(SECRETS)
            }
        processes = next(part.world_size for part in parts if hasattr(part, "world_size"))
        return cls(json.loads(json.dumps(recipe, default=plain, sort_keys=True)), data_sha256, processes)

    @property
    def recipe_sha256(self) -> str:
        """Hash of the recipe fields that can affect results."""
        return sha256(json.dumps(_compared(self.recipe), sort_keys=True).encode()).hexdigest()

    def record(self) -> RunRecord:
        """Returns the spec and `recipe_sha256` as they are written."""
        return RunRecord(**vars(self), recipe_sha256=self.recipe_sha256)

    def check_goes_on(self, written: RunRecord, checkpoint: str, allowed: Collection[str]) -> list[str]:
        """Checks that this run may resume from a checkpoint.

        Args:
            written: the record of the spec in the checkpoint.
            checkpoint: its folder, for messages.
            allowed: recipe fields that may differ, and "data_sha256" if the data may.

        Returns:
            The allowed differences that were found, one text each.

        Raises:
            CheckpointError: If the number of processes differs, or if a field or the data differ and are not
                in `allowed`.
            RecipeError: If `allowed` names an unknown field.
        """
        field_names = {*self.recipe, "data_sha256"}
        if unknown := sorted(set(allowed) - field_names):
            raise RecipeError(
                f"allow_change {unknown[0]}: not a field of the recipe; name the field that may differ, or"
                " data_sha256"
            )
        if written.processes != self.processes:
            raise CheckpointError(
                f"{checkpoint} was written by {written.processes} processes and this run has"
                f" {self.processes}: each has its own random state; launch {written.processes}, or start a"
                f" new run with --model_name_or_path {checkpoint}"
            )
        before, now = _compared(written.recipe), _compared(self.recipe)
        differences = {
            key: (before.get(key), now.get(key))
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        }
        if written.data_sha256 != self.data_sha256:
            differences["data_sha256"] = (written.data_sha256[:12], self.data_sha256[:12])
        refused = sorted(set(differences) - set(allowed))
        if refused:
            shown = "; ".join(
                f"{key}: {differences[key][0]!r} then, {differences[key][1]!r} now" for key in refused
            )
            raise CheckpointError(
                f"{checkpoint} is from a different run ({shown}); change it back, add --allow_change"
                f" {' '.join(refused)} to resume anyway, or name another output_dir"
            )
        return [f"{key}: {was!r} -> {is_now!r}" for key, (was, is_now) in sorted(differences.items())]


def _compared(recipe: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields that can change a result."""
    return {key: value for key, value in recipe.items() if key not in RESULT_NEUTRAL_FIELDS}
