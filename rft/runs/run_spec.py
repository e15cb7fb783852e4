"""What a run is: its resolved recipe, its data, its number of processes. Two runs of one identity compute the same.

Only what can change a number belongs to it. Where output goes, what is logged and how often a checkpoint is written do not.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from rft.errors import CheckpointError, RecipeError

RESULT_NEUTRAL_FIELDS = {  # fields that no weight, completion or metric depends on
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
"""A field whose name ends in one of these never goes into a record."""


def resolve(*parts: Any) -> dict[str, Any]:
    """Every field of a run's dataclasses with its value, as plain JSON."""
    recipe: dict[str, Any] = {}
    for part in parts:
        recipe |= {f.name: getattr(part, f.name) for f in fields(part) if f.init and not f.name.endswith(SECRETS)}
    return json.loads(json.dumps(recipe, default=plain, sort_keys=True))


def plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "value"):  # an enum
        return value.value
    return vars(value) if hasattr(value, "__dict__") else str(value)


@dataclass(frozen=True)
class RunSpec:
    """recipe: field -> value. data_sha256: of the split that is trained on."""

    recipe: dict[str, Any]
    data_sha256: str
    processes: int

    @classmethod
    def of(cls, *parts: Any, data_sha256: str) -> "RunSpec":
        """From a run's dataclasses, one of them the training arguments."""
        processes = next(part.world_size for part in parts if hasattr(part, "world_size"))
        return cls(resolve(*parts), data_sha256, processes)

    @property
    def recipe_sha256(self) -> str:
        return sha256(json.dumps(self._numbers(), sort_keys=True).encode()).hexdigest()

    def _numbers(self) -> dict[str, Any]:
        return {key: value for key, value in self.recipe.items() if key not in RESULT_NEUTRAL_FIELDS}

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "recipe_sha256": self.recipe_sha256}

    def check_goes_on(self, written: dict[str, Any], checkpoint: str, allowed: Collection[str]) -> list[str]:
        """Whether this run may go on from a checkpoint with the identity record `written`; the differences that are allowed.

        Raises:
            CheckpointError: the recipe, the data or the number of processes differ, and `allowed` does not name it.
            RecipeError: `allowed` names what is no field.
        """
        known = {*self.recipe, "data_sha256"}
        if unknown := sorted(set(allowed) - known):
            raise RecipeError(
                f"allow_change {unknown[0]}: no field of the recipe; name the field that may differ, or data_sha256"
            )
        if written["processes"] != self.processes:
            raise CheckpointError(
                f"{checkpoint} was written by {written['processes']} processes and this run has {self.processes}: each has its "
                f"own random state; launch {written['processes']}, or start a new run with --model_name_or_path {checkpoint}"
            )
        before = {key: value for key, value in written["recipe"].items() if key not in RESULT_NEUTRAL_FIELDS}
        now = self._numbers()
        found = {key: (before.get(key), now.get(key)) for key in {**before, **now} if before.get(key) != now.get(key)}
        if written["data_sha256"] != self.data_sha256:
            found["data_sha256"] = (written["data_sha256"][:12], self.data_sha256[:12])
        refused = sorted(set(found) - set(allowed))
        if refused:
            shown = "; ".join(f"{key}: {found[key][0]!r} then, {found[key][1]!r} now" for key in refused)
            raise CheckpointError(
                f"{checkpoint} is of another run ({shown}); set it back, or add --allow_change {' '.join(refused)} to go on "
                "anyway, or name another output_dir"
            )
        return [f"{key}: {was!r} -> {is_now!r}" for key, (was, is_now) in sorted(found.items())]
