"""The checkpoint of a slide encoder: its weights, its shape, and who it was trained on.

Reads and writes one safetensors file. What it guarantees: a file is whole or not there; it loads
only into the network that it names; and it says itself which patients and slides were trained on,
bound to the digests of what it was made from, so that an evaluation need not trust anything else.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from slidemill.artifacts.atomic import atomic_path
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError, WeightsError
from slidemill.pretrain.encoder import SlideEncoder
from slidemill.pretrain.vit import SlideTransformer

CHECKPOINT_VERSION = "2"
"""Version of the checkpoint's keys and meaning."""

METADATA_KEY = "slidemill"
"""Key of the checkpoint's metadata; one key, since safetensors keeps no order of several."""

_OWN = ("version", "kind", "sizes", "trained_on")


@dataclass(frozen=True)
class TrainedOn:
    """Who a slide encoder was trained on.

    Attributes:
        patients: The patients, ascending, each once.
        slides: Their slides, ascending, each once.
    """

    patients: tuple[str, ...]
    slides: tuple[str, ...]

    @classmethod
    def of(cls, patients: Iterable[str], slides: Iterable[str]) -> "TrainedOn":
        """Those patients and slides, in any order and any number of times."""
        return cls(tuple(sorted(set(patients))), tuple(sorted(set(slides))))


def training_stamp(stage: StageId, used: Iterable[tuple[str, str]]) -> Stamp:
    """Provenance of a checkpoint.

    Args:
        stage: The pretraining that makes it.
        used: Each slide that is trained on, with the item digest of its features; in any order.
    """
    pairs = sorted([slide_id, digest] for slide_id, digest in used)
    return stage.stamp("", {"features": stage.item_digest(pairs)})


def embedding_stamp(stage: StageId, slide_id: str, features: str, checkpoint: str) -> Stamp:
    """Provenance of one slide's embedding.

    Args:
        stage: The pretraining whose encoder makes it.
        slide_id: The slide.
        features: Item digest of its features.
        checkpoint: Item digest of the checkpoint.
    """
    return stage.stamp(slide_id, {"features": features, "pretrain": checkpoint})


def save_checkpoint(
    path: Path, encoder: SlideEncoder, facts: Mapping[str, object], trained_on: TrainedOn
) -> None:
    """Write a slide encoder, atomically; the same encoder and facts give the same bytes.

    Args:
        path: Where to.
        encoder: The encoder itself, not what compiling or distributing wraps it in.
        facts: What else the file shall say, fit for JSON: the attributes of its stamp.
        trained_on: Who it was trained on.

    Raises:
        ValueError: If a fact has the name of something that is written anyway.
    """
    taken = sorted(set(facts) & set(_OWN))
    if taken:
        raise ValueError(f"facts of a checkpoint cannot be called {taken}")
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in encoder.state_dict().items()
    }
    meta = {
        **facts,
        "version": CHECKPOINT_VERSION,
        "kind": encoder.kind,
        "sizes": encoder.sizes(),
        "trained_on": {"patients": trained_on.patients, "slides": trained_on.slides},
    }
    text = json.dumps(meta, sort_keys=True, allow_nan=False)
    with atomic_path(path) as temporary:
        save_file(state, temporary, {METADATA_KEY: text})


def load_checkpoint(path: Path) -> SlideEncoder:
    """Load a slide encoder strictly; the global random state stays as it is.

    Returns:
        The encoder, on the CPU, in eval mode.

    Raises:
        ArtifactError: If the file is missing, damaged, or no checkpoint of ours.
        WeightsError: If its version is not known, or it does not fit what it says it is.
    """
    facts = read_facts(path)
    _check_version(facts, path)
    try:
        with torch.random.fork_rng(devices=[]):
            encoder = _make(str(facts["kind"]), facts["sizes"])
        encoder.load_state_dict(load_file(path), strict=True)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: does not fit the slide encoder that it describes: {error}. The file is "
            "damaged or was altered: train it again (`--config recompute=pretrain`)."
        ) from None
    return encoder.eval()


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, in any version; its weights are not read.

    Raises:
        ArtifactError: If the file is missing, damaged, or no checkpoint of ours.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file. Train the slide encoder: `pretrain`.")
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get(METADATA_KEY)
        facts = None if raw is None else json.loads(raw)
    except Exception as error:  # noqa: BLE001 - safetensors raises kinds of its own
        raise ArtifactError(
            f"{path}: not readable as a checkpoint ({error}). Delete it and run pretrain again."
        ) from None
    if not isinstance(facts, dict):
        raise ArtifactError(
            f"{path}: no checkpoint of ours: it has no slidemill metadata. Give the right file."
        )
    return facts


def read_trained_on(path: Path) -> TrainedOn:
    """Who a slide encoder was trained on, as its checkpoint says.

    Raises:
        ArtifactError: If the file is missing, damaged, no checkpoint of ours, or does not say it.
        WeightsError: If its version is not known.
    """
    facts = read_facts(path)
    _check_version(facts, path)
    found = facts.get("trained_on")
    people, slides = (
        found.get(key) if isinstance(found, dict) else None for key in ("patients", "slides")
    )
    if not _is_names(people) or not _is_names(slides):
        raise ArtifactError(
            f"{path}: it does not say which patients and slides it was trained on, so that nothing "
            "could be evaluated with it. Train it again (`--config recompute=pretrain`)."
        )
    return TrainedOn.of(people, slides)


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _check_version(facts: Mapping[str, Any], path: Path) -> None:
    found = facts.get("version")
    if found == CHECKPOINT_VERSION:
        return
    if found == "1":
        why = "an older slidemill wrote it, whose slide encoder was another network"
        todo = "Train it again (`--config recompute=pretrain`)"
    else:
        writer = facts.get("producer", "the slidemill that wrote it")
        why, todo = f"only {CHECKPOINT_VERSION!r} is known", f"Install {writer}, or a newer one"
    raise WeightsError(
        f"{path}: a slide encoder's checkpoint of version {found!r}, but {why}. {todo}."
    )


def _make(kind: str, sizes: Mapping[str, str]) -> SlideEncoder:
    """A new encoder of a kind; its weights are about to be replaced.

    Raises:
        KeyError, ValueError: If sizes are missing or wrong, or the kind is not known.
    """
    if kind == SlideTransformer.kind:
        return SlideTransformer.from_sizes(sizes)
    if kind == "longnet":
        # Not needed, and not imported, by those who use the default encoder.
        from slidemill.pretrain.longnet import LongNet

        return LongNet.from_sizes(dict(sizes))
    raise ValueError(f"no slide encoder is of the kind {kind!r}")
