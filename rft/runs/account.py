"""Whether W&B can be logged to, said before anything is loaded: without a key it refuses only when the first step is near."""

import os

from rft.errors import RecipeError


def check_account() -> None:
    """Raises RecipeError if W&B is to be reached and no key is known; nothing is sent."""
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled") or os.environ.get("WANDB_DISABLED") in ("true", "1"):
        return
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RecipeError(
            "W&B is asked for and no key for it is known: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to log "
            "to files here (`wandb sync` sends them later)"
        )
