"""Checks the W&B login before anything is loaded; without a key, W&B itself fails only shortly before the
first step."""

import os

from rft.errors import RecipeError


def check_account() -> None:
    """Checks that a W&B API key is known, without sending anything.

    Raises:
        RecipeError: If W&B is online and no key is known.
    """
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled") or os.environ.get(
        "WANDB_DISABLED"
    ) in ("true", "1"):
        return
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RecipeError(
            "W&B logging is on, but no API key is known: run `wandb login`, set WANDB_API_KEY, or set"
            " WANDB_MODE=offline to log to files here (`wandb sync` uploads them later)"
        )
