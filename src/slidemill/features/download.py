"""Fetching published weights: `slidemill encoders download`, the only part that needs network.

Files of the Hugging Face hub go into its cache; files at an address of their own go where a person
would have put them by hand, complete or not at all.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from slidemill.errors import WeightsError
from slidemill.features.spec import EncoderSpec, HubFile, UrlFile
from slidemill.features.weights import (
    FOLDER_VARIABLE,
    Weights,
    filenames,
    nothing_to_load,
    path_by_hand,
    weights_of_file,
)

TIMEOUT_S = 60.0
"""How long a server may be silent, in seconds."""

_CODE_FILES = ["*.py", "config.json"]
_CHUNK_BYTES = 1 << 20


def download(spec: EncoderSpec) -> Weights:
    """Fetch an encoder's published weights; what a person has put by hand is taken as it is.

    For encoders that run code of their repository that code is fetched as well, and not run.

    Raises:
        WeightsError: If there are none, no network, no such page, or its terms were not accepted.
    """
    if spec.weights is None:
        raise WeightsError(nothing_to_load(spec))
    by_hand = path_by_hand(spec)
    if isinstance(spec.weights, UrlFile):
        if not by_hand.is_file():
            fetch(spec.weights, by_hand)
        return weights_of_file(by_hand)
    if spec.builder == "remote":
        _fetch_code(spec.weights)
    if by_hand.is_file():
        return weights_of_file(by_hand)
    return _from_hub(spec.weights, filenames(spec), by_hand)


def _from_hub(weights: HubFile, names: tuple[str, ...], by_hand: Path) -> Weights:
    """Fetch the first of the files that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        with _said_in_words(weights, by_hand):
            try:
                return weights_of_file(Path(hf_hub_download(weights.repository, name)))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    raise WeightsError(f"{weights.page} has none of {', '.join(names)}.")


def _fetch_code(weights: HubFile) -> None:
    from huggingface_hub import snapshot_download

    with _said_in_words(weights, None):
        snapshot_download(weights.repository, allow_patterns=_CODE_FILES)


@contextmanager
def _said_in_words(weights: HubFile, by_hand: Path | None) -> Iterator[None]:
    """Turn the hub's errors into what a person can do about them."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = weights.page
    aside = f", or put the file at {by_hand}" if by_hand is not None else ""
    # The hub's library says itself when it tries again; once is enough.
    logging.getLogger("huggingface_hub").propagate = False
    try:
        yield
    except GatedRepoError:
        raise WeightsError(
            f"{page} is gated: accept its terms there, then set HF_TOKEN to a token of yours"
            f"{aside}."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise WeightsError(f"{page}: there is no such page, or it needs HF_TOKEN.") from None
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{page} cannot be reached ({error.__cause__ or error}). Run this where there is "
            f"network, with HF_HOME set to a folder that both machines see{aside}."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{page}: the download failed ({error}). Try again.") from None


def fetch(
    weights: UrlFile, target: Path, *, _schemes: frozenset[str] = frozenset({"https"})
) -> None:
    """Download a file, complete or not at all.

    Args:
        weights: Where it is.
        target: Where it is to be; its folder is made.

    Raises:
        WeightsError: If it cannot be had; the message names the page, the address and the path
            where it may be put by hand.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _stream(weights.url, part, _schemes)
        part.replace(target)
    except (OSError, ValueError, HTTPException) as error:
        raise WeightsError(
            f"{weights.url} could not be downloaded ({error}). See {weights.page}; the file may "
            f"be put by hand at {target} (the folder is {FOLDER_VARIABLE}'s)."
        ) from None
    finally:
        # Also when the user interrupts: no half file is ever left behind.
        part.unlink(missing_ok=True)


class _SameScheme(HTTPRedirectHandler):
    """Follows a redirect only where its scheme is allowed."""

    def __init__(self, schemes: frozenset[str]) -> None:
        self._schemes = schemes

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, schemes: frozenset[str]) -> None:
    if urlsplit(url).scheme not in schemes:
        raise ValueError(f"{url} is not https")


def _stream(url: str, path: Path, schemes: frozenset[str]) -> None:
    """Write what an address gives into a file.

    Raises:
        OSError: If it cannot be reached or ends too early.
        ValueError: If the scheme is not allowed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    _check_scheme(url, schemes)
    console = Console(file=sys.stderr)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        build_opener(_SameScheme(schemes)).open(url, timeout=TIMEOUT_S) as answer,
        path.open("wb") as stream,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        length = answer.headers.get("Content-Length")
        expected = int(length) if length is not None else None
        work = bar.add_task(url.rsplit("/", 1)[-1], total=expected)
        received = 0
        while block := answer.read(_CHUNK_BYTES):
            stream.write(block)
            received += len(block)
            bar.update(work, completed=received)
        if expected is not None and received != expected:
            raise OSError(f"it ended after {received} of {expected} bytes")
