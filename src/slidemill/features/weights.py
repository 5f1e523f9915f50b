"""Weights on this machine: found without torch, known by their sha256.

Nothing is downloaded here except by `download`. The Hugging Face cache is where published weights
are looked for; a cluster without network gets them by `slidemill encoders download` on another
machine, or by hand.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from slidemill.artifacts.digest import file_sha256
from slidemill.errors import WeightsError

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names that a model's weights have on the hub, in order of preference."""


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        path: The file.
        sha256: Digest of its bytes.
    """

    path: Path
    sha256: str


def weights_of_file(path: Path) -> Weights:
    """A checkpoint of the user's.

    Raises:
        WeightsError: If there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such checkpoint. Mend features.encoders.")
    return Weights(path, _sha256(path, path.stat().st_size, path.stat().st_mtime_ns))


def find_hub_weights(repository: str) -> Weights:
    """Published weights in the local Hugging Face cache.

    Raises:
        WeightsError: If they are not there; the message says how to get them.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in HUB_FILES:
        try:
            found = try_to_load_from_cache(repository, name)
        except HFValidationError:
            break
        if isinstance(found, str):
            return weights_of_file(Path(found))
    model = repository.removeprefix("timm/")
    raise WeightsError(
        f"weights of timm:{model} are not on this machine, and none are made up. "
        f"Where there is network, run `slidemill encoders download timm:{model}` (with HF_HOME set "
        "to a folder that the nodes share), or fetch model.safetensors from "
        f"https://huggingface.co/{repository} and give it as `checkpoint:` beside the name. "
        "The name needs timm's tag, as in timm:resnet50.a1_in1k."
    )


def download(repository: str) -> Weights:
    """Fetch published weights into the Hugging Face cache.

    Raises:
        WeightsError: If there is no network, no such repository, or its terms were not accepted.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{repository}"
    for name in HUB_FILES:
        try:
            return weights_of_file(Path(hf_hub_download(repository, name)))
        except GatedRepoError:
            raise WeightsError(
                f"{page} is gated: accept its terms there, then set HF_TOKEN to a token of yours."
            ) from None
        except (RepositoryNotFoundError, HFValidationError):
            raise WeightsError(f"{page}: there is no such page, or it needs HF_TOKEN.") from None
        except LocalEntryNotFoundError as error:
            raise WeightsError(
                f"{page} cannot be reached ({error.__cause__ or error}). Run this where there is "
                "network, with HF_HOME set to a folder that both machines see."
            ) from None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(f"{page}: the download failed ({error}). Try again.") from None
    raise WeightsError(f"{page} has none of {', '.join(HUB_FILES)}.")


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    # Length and time are part of the cache key: a file that was replaced is read again.
    return file_sha256(path)
