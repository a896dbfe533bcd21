"""Files of a repository on the Hugging Face Hub, at a pinned revision where one is known.

huggingface_hub resumes what was cut, and takes the user's endpoint, token, proxy and offline switch.
"""

import re
from pathlib import Path
from typing import Any

from voder.errors import CheckpointError, ResourceError, VoderError
from voder.fetch.files import Progress, check_sum
from voder.published import HubFile, HubSource, Published

_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(published: Published, folder: Path, progress: Progress) -> None:
    """Bring the files of a row into `folder` and compare their sums.

    Raises:
        ResourceError: no network, or a download that was cut.
        CheckpointError: the repository no longer has the file, or it has changed.
    """
    done = 0
    for source, file in [(each, file) for each in published.hub for file in each.files]:
        try:
            _download(source, file, folder)
        except VoderError:
            raise
        except Exception as error:  # httpx, the operating system and the library each have their own errors
            raise _explain(published.name, source, file, error) from error
        done += file.num_bytes
        progress(done)


def _download(source: HubSource, file: HubFile, folder: Path) -> None:
    import huggingface_hub

    wanted = file.sha256
    if not wanted:
        address = huggingface_hub.hf_hub_url(source.repository, file.path, revision=source.revision)
        promised = huggingface_hub.get_hf_file_metadata(address).etag or ""
        wanted = promised if _SHA256.fullmatch(promised) else ""  # of large files it is the sum, of small ones git's
    huggingface_hub.hf_hub_download(source.repository, file.path, revision=source.revision, local_dir=folder)
    if wanted:
        try:
            check_sum(folder / file.path, wanted, source.repository)
        except CheckpointError:
            (folder / file.path).unlink()
            raise


def _explain(name: str, source: HubSource, file: HubFile, error: Any) -> VoderError:
    """The many errors of a download as one sentence."""
    kind, first = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
    where = f"{source.repository} on the Hugging Face Hub"
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"):
        return CheckpointError(f"{where} no longer has {file.path} at {source.revision[:12]}, which {name} needs")
    if kind == "GatedRepoError":
        return CheckpointError(f"{where} asks for consent to its terms: give it there, set HF_TOKEN and fetch again")
    # the library looks for the file in its own cache when the Hub does not answer, and says that it is not there
    reason = "it cannot be reached" if kind == "LocalEntryNotFoundError" else f"{kind}: {first}"
    return ResourceError(
        f"{name} could not be brought from {where} ({reason}); run the same command again with a network, or give the "
        "files with --from"
    )
