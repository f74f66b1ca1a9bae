"""Upload a folder to the Hugging Face Hub, for `python -m analysis export ... --hub FOLDER --push USER/NAME`.

The token is only looked for where `huggingface_hub` has it: `hf auth login`, or the variable HF_TOKEN. HF_ENDPOINT
names another Hub.
"""

from __future__ import annotations

from pathlib import Path

from analysis.export.hub import check_installed
from lth_trainable.errors import UserError, bad_value, words_of

WHAT_TO_DO = {
    401: "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN to a token that is valid",
    403: "the token may not write there: use one with the right to write, and a name of your own",
    404: "there is no such user or organisation, or the token may not write there",
}


def check_push(repository: str) -> None:
    """Raise `UserError` if nothing could be uploaded: no package, no token, or a name that is none."""
    check_installed("--push")
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository_is_named = False
    else:
        repository_is_named = repository.count("/") == 1
    if not repository_is_named:
        raise bad_value("--push", repository, "USER/NAME, of letters, digits, '-', '_' and '.'")
    if get_token() is None:
        raise UserError("--push: found no token of the Hub; run `hf auth login`, or set HF_TOKEN, then export again")


def push(folder: Path, repository: str, message: str, private: bool) -> str:
    """Create the repository, if it is not there, and upload all files; returns its address.

    private: whether a new repository is; one that is there stays as it is. Raises `UserError` if that fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:  # of the package, of its HTTP client or of the network
        raise UserError(f"--push {repository}: {_why(error, api.endpoint)}; {folder} is complete") from error
    return str(url)


def _why(error: Exception, endpoint: str) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        reason = f"({type(error).__name__}: {words_of(error)[:200]})"
        of_network = (OSError, *HfHubHTTPError.__bases__)  # among them that of the HTTP client, whichever it is
        return f"{endpoint} cannot be reached {reason}" if isinstance(error, of_network) else f"not uploaded {reason}"
    said = getattr(error, "server_message", None)
    refused = f"{endpoint} refused it with {status}" + (f" ({said})" if said else "")
    return f"{refused}; {WHAT_TO_DO[status]}" if status in WHAT_TO_DO else refused
