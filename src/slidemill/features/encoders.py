"""Tile encoders looked up by name, and what a configuration asks of them; imports no torch.

The registry (`slidemill.features.registry`) holds the rows. `timm:ARCH.TAG` names any model of timm
whose weights lie on the Hugging Face hub as `timm/ARCH.TAG`. Weights are never replaced by random
ones: an encoder whose weights are not on this machine is an error that says how to get them.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from slidemill.config import EncoderEntry
from slidemill.errors import ConfigError, Problem
from slidemill.features.registry import ENCODERS
from slidemill.features.spec import EncoderSpec, HubFile, Output
from slidemill.features.weights import Weights, find_weights, weights_of_file

TIMM_PREFIX = "timm:"
MISFIT = 0.05
"""Relative difference of sizes and resolutions from which a user is told."""
_OF_ANY_TILE = frozenset({"rgb-mean"})
"""Encoders that mean the same on tiles of every size and resolution."""


@dataclass(frozen=True)
class Encoder:
    """An encoder of the configuration, its weights found.

    Attributes:
        spec: What it is.
        weights: The file of its weights; None where it needs none.
        own_weights: Whether they are a checkpoint of the user's.
        output: What of it is the feature.
    """

    spec: EncoderSpec
    weights: Weights | None
    own_weights: bool
    output: Output

    @property
    def label(self) -> str:
        """Its name as part of a folder's name: with its output, and weights, where not the usual.

        Such as `virchow2`, `virchow2-cls` or `uni-cls-mean-1f00aa`.
        """
        parts = [self.spec.name.replace(":", "-").replace("/", "-")]
        if self.output != self.spec.outputs[0]:
            parts.append(self.output.replace("+", "-"))
        if self.own_weights and self.weights is not None:
            parts.append(self.weights.sha256[:6])
        return "-".join(parts)

    @property
    def dim(self) -> int | None:
        """Length of a feature; None where only the built network knows."""
        return self.spec.dim(self.output)

    @property
    def weights_sha256(self) -> str:
        """sha256 of the weights; empty where there are none."""
        return self.weights.sha256 if self.weights else ""


def find_spec(name: str) -> EncoderSpec:
    """Look an encoder up by its name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    model = name.removeprefix(TIMM_PREFIX)
    if name.startswith(TIMM_PREFIX) and model:
        return EncoderSpec(
            name=name,
            builder="timm",
            outputs=("pooled",),
            width=None,
            tile_px=None,
            mpp=None,
            precision="fp32",
            licence="see its page",
            page=f"https://huggingface.co/timm/{model}",
            arguments={"model": model},
            weights=HubFile(f"timm/{model}"),
            # 2: the edge before the crop is rounded down, as timm does.
            algorithm_version=2,
        )
    near = difflib.get_close_matches(name.lower(), ENCODERS, n=1)
    hint = f"Did you mean {near[0]}" if near else "`slidemill encoders` lists them"
    raise _problem(f"no encoder is called {name!r}", hint)


def resolve(entry: EncoderEntry, folder: Path) -> Encoder:
    """Find an encoder and its weights, importing no torch and downloading nothing.

    Args:
        entry: The encoder of the configuration.
        folder: Where relative checkpoint paths start.

    Raises:
        ConfigError: If there is no such encoder, it has no public weights, it takes no checkpoint,
            it does not offer the output, or it runs code that the user has not agreed to.
        WeightsError: If the weights are not on this machine.
    """
    spec = find_spec(entry.name)
    if spec.builder == "none":
        instead = " or ".join(spec.alternatives)
        raise _problem(
            f"{spec.name} has no public weights: {spec.missing}",
            f"Choose {instead}" if instead else "Choose another encoder",
        )
    output = _output(spec, entry)
    if not spec.needs_weights:
        if entry.checkpoint is not None:
            raise _problem(f"{spec.name} has no weights to load", "Remove its checkpoint")
        return Encoder(spec, None, own_weights=False, output=output)
    if spec.runs_foreign_code and not entry.trust_remote_code:
        raise _problem(_foreign_code(spec), _agree(spec))
    if entry.checkpoint is not None:
        weights = weights_of_file(folder / entry.checkpoint)
        return Encoder(spec, weights, own_weights=True, output=output)
    return Encoder(spec, find_weights(spec), own_weights=False, output=output)


def check_fit(encoder: Encoder, tile_px: int, tokens: bool) -> None:
    """See that an encoder can do what is asked of it, before anything is computed.

    Args:
        encoder: The encoder.
        tile_px: Edge of the tiles, pixels.
        tokens: Whether its patch tokens are to be kept.

    Raises:
        ConfigError: If it takes tiles of another size only, or is a network without patch tokens.
            Of plain timm names both are known only when they are built.
    """
    spec = encoder.spec
    if tokens and spec.needs_weights and spec.width is not None and spec.patch_px is None:
        what = f"{spec.name} has no patch tokens"
        todo = "Set features.tokens to false, or leave this encoder out"
        raise _problem(what, todo)
    prepared = spec.preprocessing
    if prepared and prepared.resize_px is None and tile_px != prepared.crop_px:
        what = f"{spec.name} takes tiles of exactly {prepared.crop_px} px, not of {tile_px} px"
        raise _problem(what, f"Set tiles.tile_px to {prepared.crop_px}, or to auto")


def misfit(encoder: Encoder, tile_px: int, mpp: float | None) -> str | None:
    """What to tell a user whose tiles are not those that an encoder was made for.

    Args:
        encoder: The encoder.
        tile_px: Edge of the tiles, pixels.
        mpp: um per pixel of the tiles; None where unknown.

    Returns:
        A sentence that names both; None where they agree within 5 %, or nothing is known.
    """
    spec = encoder.spec
    if spec.name in _OF_ANY_TILE:
        return None
    told = []
    if spec.tile_px is not None and _differ(tile_px, spec.tile_px):
        told.append(f"tiles of {spec.tile_px} px, not {tile_px} px")
    if spec.mpp is not None and mpp is not None and _differ(mpp, spec.mpp):
        told.append(f"{spec.mpp:g} um per pixel, not {mpp:g}")
    if not told:
        return None
    return f"{spec.name} was made for {' and for '.join(told)}: its features may be worse for it."


def _differ(value: float, reference: float) -> bool:
    return abs(value / reference - 1.0) > MISFIT


def _output(spec: EncoderSpec, entry: EncoderEntry) -> Output:
    """The output that is asked for, if it is offered."""
    if entry.output == "auto":
        return spec.outputs[0]
    if entry.output not in spec.outputs:
        raise _problem(
            f"{spec.name} has no output {entry.output!r}",
            f"It offers {', '.join(spec.outputs)}; auto is {spec.outputs[0]}",
        )
    return entry.output


def _foreign_code(spec: EncoderSpec) -> str:
    what = (
        "a program stored with its weights"
        if spec.builder == "exported"
        else "Python code of its repository"
    )
    return f"{spec.name} runs {what} ({spec.weights.page if spec.weights else spec.page})"


def _agree(spec: EncoderSpec) -> str:
    return (
        f"Read it first; then write {{name: {spec.name}, trust_remote_code: true}} to have it run"
    )


def _problem(what: str, todo: str) -> ConfigError:
    return ConfigError("features", [Problem("features.encoders", what, todo)])
