"""Weights on this machine: found without torch and without network, known by their sha256.

Published weights are looked for where a person may have put them
(`$SLIDEMILL_WEIGHTS/<encoder>/<file>`, by default below `~/.cache/slidemill/weights`), then in the
Hugging Face cache. They are fetched by `slidemill encoders download` alone
(`slidemill.features.download`), never by a job: a cluster's nodes may have no network, and a gated
page asks a person to accept its terms.
"""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from slidemill.artifacts.digest import file_sha256
from slidemill.errors import WeightsError
from slidemill.features.spec import EncoderSpec, HubFile

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names that a model's weights have on the hub, in order of preference."""

FOLDER_VARIABLE = "SLIDEMILL_WEIGHTS"
"""Environment variable that names the folder of weights that were put there by hand."""


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
        raise WeightsError(f"{path}: there is no such checkpoint. Fix features.encoders.")
    return Weights(path, _sha256(path, path.stat().st_size, path.stat().st_mtime_ns))


def folder_by_hand(spec: EncoderSpec) -> Path:
    """Where a person may put an encoder's weights, whether it exists or not."""
    root = os.environ.get(FOLDER_VARIABLE) or "~/.cache/slidemill/weights"
    return Path(root).expanduser() / re.sub(r"[^A-Za-z0-9._-]", "-", spec.name)


def filenames(spec: EncoderSpec) -> tuple[str, ...]:
    """Names that the file of weights may have at its source, the row's own first.

    Repositories hold the same weights under one or both of the hub's usual names; any other name
    is the only one.
    """
    if spec.weights is None:
        return ()
    name = spec.weights.filename
    return (name, *(other for other in HUB_FILES if other != name and name in HUB_FILES))


def path_by_hand(spec: EncoderSpec) -> Path:
    """The exact file that a person may put there.

    Raises:
        WeightsError: If the encoder has no weights.
    """
    if spec.weights is None:
        raise WeightsError(nothing_to_load(spec))
    return folder_by_hand(spec) / Path(spec.weights.filename).name


def find_weights(spec: EncoderSpec) -> Weights:
    """Published weights on this machine.

    Raises:
        WeightsError: If they are not there; the message says how to get them.
    """
    path = find_file(spec)
    if path is None:
        raise WeightsError(how_to_get(spec))
    return weights_of_file(path)


def is_on_disk(spec: EncoderSpec) -> bool:
    """Whether an encoder can be used on this machine as far as its weights go."""
    if spec.builder == "none":
        return False
    return not spec.needs_weights or find_file(spec) is not None


def find_file(spec: EncoderSpec) -> Path | None:
    """The file of published weights; None where it is not on this machine."""
    for name in filenames(spec):
        path = folder_by_hand(spec) / Path(name).name
        if path.is_file():
            return path
    if isinstance(spec.weights, HubFile):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for name in filenames(spec):
            try:
                found = try_to_load_from_cache(spec.weights.repository, name)
            except HFValidationError:
                return None
            if isinstance(found, str):
                return Path(found)
    return None


def nothing_to_load(spec: EncoderSpec) -> str:
    """Why an encoder has no weights, and what to choose instead."""
    if spec.needs_weights:
        return f"{spec.name}: the registry names no weights; give yours as `checkpoint:`."
    if spec.builder != "none":
        return f"{spec.name} needs no weights."
    instead = f" Choose {' or '.join(spec.alternatives)}." if spec.alternatives else ""
    return f"{spec.name} has no public weights: {spec.missing or 'none were released'}.{instead}"


def how_to_get(spec: EncoderSpec) -> str:
    """What a person has to do to have an encoder's weights; one line for each way."""
    if spec.weights is None:
        return nothing_to_load(spec)
    on_hub = isinstance(spec.weights, HubFile)
    terms = (
        f"Accept the terms at {spec.weights.page} and set HF_TOKEN to a token of yours.\n  "
        if spec.is_gated
        else ""
    )
    shared = (
        "with HF_HOME set to a folder that the nodes share"
        if on_hub
        else f"with {FOLDER_VARIABLE} set to a folder that the nodes share"
    )
    tag = (
        "\n  The name needs timm's tag, as in timm:resnet50.a1_in1k."
        if spec.name.startswith("timm:") and "." not in spec.name
        else ""
    )
    return (
        f"weights of {spec.name} are not on this machine, and none are made up.\n  {terms}"
        f"Where there is network, run `slidemill encoders download {spec.name}` ({shared});\n  "
        f"or fetch {spec.weights.filename} from {spec.weights.page} and put it at "
        f"{path_by_hand(spec)}.{tag}"
    )


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    # Length and time are part of the cache key: a file that was replaced is read again.
    return file_sha256(path)
