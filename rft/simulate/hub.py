"""Uploads a finished dataset to the Hugging Face Hub, only when asked to. New repositories are private."""

from pathlib import Path

from rft.errors import DataError


def push(folder: Path, repo_id: str) -> str:
    """Create the dataset repository if it is not there, upload the folder, return its address.

    Raises DataError where the Hub refuses (no token, no right, no network).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message="Simulated personas")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{repo_id}: the Hub did not take the dataset ({reason}); it is whole in {folder}. "
                        "Log in with `hf auth login` and give the same command again") from None
    return str(url)
