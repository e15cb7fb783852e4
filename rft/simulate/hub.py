"""Upload of a finished dataset to the Hugging Face Hub, only on request. New repositories are private."""

from pathlib import Path

from rft.errors import DataError


def push(folder: Path, repo_id: str) -> str:
    """Uploads the folder to a dataset repository, which is created if it does not exist.

    Returns:
        The URL of the repository.

    Raises:
        DataError: the upload failed (no token, no permission, no network).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message="Simulated personas"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{repo_id}: upload to the Hub failed ({reason}); the complete dataset is in {folder}. "
            "Log in with `hf auth login` and rerun the same command"
        ) from None
    return str(url)
