"""Networks that were stored as programs, by `torch.export.save`.

A stored program is code. `torch.export.load` (read in torch 2.13) first unpickles weights and
constants with `weights_only=True`, and where that fails unpickles them again without it; constants
that are objects go through `pickle.loads` in any case; symbolic shapes go through
`sympy.sympify`, which evaluates text; and an archive may hold compiled libraries, which are loaded.
A file made for it can therefore do anything. Rows with this builder are refused without
`trust_remote_code: true`, before anything here is imported.

The row needs no arguments: a program maps (N, 3, H, W) float images to (N, D) vectors.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from slidemill.errors import WeightsError
from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec


class ExportedNetwork(Network):
    """A stored program; it was stored for inference."""

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Do nothing: a program has no modes, and refuses to be asked."""
        return self

    def forward(self, images: Tensor) -> Tokens:
        """Run the program on (N, 3, H, W) float images; see `Network`."""
        return Tokens(pooled=self.body(images))


def load(spec: EncoderSpec, path: Path) -> Network:
    """A stored program with its weights.

    Args:
        spec: Its row.
        path: The file, made by `torch.export.save`.

    Raises:
        WeightsError: If it holds no program that this version of torch can read.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body: nn.Module = torch.export.load(stream).module()
    except Exception as error:  # the reader raises many kinds, asserts among them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: not a program that torch {torch.__version__} can read ({reason}). Programs "
            f"may not outlive a version of torch; see {spec.page}."
        ) from error
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    return ExportedNetwork(body, spec.width or 0, spec.prefix_tokens)
