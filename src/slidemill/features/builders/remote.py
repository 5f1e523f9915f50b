"""Networks whose code lies beside their weights on the Hugging Face hub.

That code is run: rows with this builder are refused without `trust_remote_code: true`, before
anything here is imported. It is taken from the local cache alone, where
`slidemill encoders download` has put it.

Arguments of a row:

- `method`: of the model, called with images;
- `cls`, `patches`, `pooled`: keys of what it returns; `pooled` alone may be empty, where it
  returns one tensor;
- `planes`: whether red, green and blue are three images of one channel, whose tokens are then
  put side by side;
- `prefix`: beginning of the names of the model's weights that published files leave out.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slidemill.errors import WeightsError
from slidemill.features.builders.transformers import require_transformers
from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec, HubFile
from slidemill.features.weights import how_to_get


class RemoteNetwork(Network):
    """A model of foreign code; its row says how it is called."""

    def __init__(self, body: nn.Module, spec: EncoderSpec) -> None:
        super().__init__(body, spec.width or 0, spec.prefix_tokens)
        self._arguments = dict(spec.arguments)
        self._patch_px = spec.patch_px

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        planes = 3 if self._arguments.get("planes") else 1
        count, _, height, width = images.shape
        given = images.reshape(count * 3, 1, height, width) if planes == 3 else images
        result: Any = getattr(self.body, str(self._arguments["method"]))(given)
        if isinstance(result, Tensor):
            return Tokens(pooled=result)
        found: dict[str, Tensor] = {}
        for name in ("cls", "patches", "pooled"):
            key = self._arguments.get(name)
            if key:
                tokens = result[key]
                # (3 N, ..., D) to (N, ..., 3 D): the planes of an image follow each other.
                parts = tokens.unflatten(0, (count, planes)).movedim(1, -2)
                found[name] = parts.flatten(-2)
        if "patches" in found and self._patch_px is not None:
            rows, columns = height // self._patch_px, width // self._patch_px
            found["patches"] = found["patches"].reshape(count, rows, columns, -1)
        return Tokens(**found)


def build(spec: EncoderSpec) -> Network:
    """A network with random weights; runs the repository's code.

    Args:
        spec: A row whose arguments are described above.

    Raises:
        ConfigError: If transformers is not installed.
        WeightsError: If the code is not on this machine, or does not run with what is installed.
    """
    require_transformers(spec)
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoModel

    if not isinstance(spec.weights, HubFile):
        raise WeightsError(f"{spec.name}: its code has no repository.")
    try:
        # A folder instead of a name: nothing below can reach for the network then.
        folder = Path(snapshot_download(spec.weights.repository, local_files_only=True))
        _refuse_other_repositories(spec, folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
        # Foreign code may keep tensors aside that no state dict has: never on `meta`.
        with torch.device("cpu"):
            body = AutoModel.from_config(config, trust_remote_code=True, dtype=torch.float32)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(
            f"the code of {spec.name} is not on this machine ({_first_line(error)}).\n"
            f"{how_to_get(spec)}"
        ) from None
    except Exception as error:  # it is foreign code: anything may come out of it
        raise WeightsError(
            f"the code of {spec.name} ({spec.weights.page}) does not run with the libraries that "
            f"are installed: {type(error).__name__}: {_first_line(error)}. Its page says which "
            "versions it was written for."
        ) from error
    return RemoteNetwork(body, spec)


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of the repository's model.

    Args:
        spec: The row.
        network: What `build` made of it.
        state: As published.

    Returns:
        For `network.body`: the row's `prefix` before names that need it; nothing is left out.
    """
    prefix = str(spec.arguments.get("prefix", ""))
    wanted = set(network.body.state_dict())
    return {
        prefix + key if key not in wanted and prefix + key in wanted else key: value
        for key, value in state.items()
    }


def _refuse_other_repositories(spec: EncoderSpec, folder: Path) -> None:
    """See that the code is the repository's own: the user has agreed to no other.

    Raises:
        OSError: If there is no configuration.
        WeightsError: If it names code of another repository.
    """
    classes = json.loads((folder / "config.json").read_text()).get("auto_map", {})
    others = [str(name) for name in classes.values() if "--" in str(name)]
    if others:
        raise WeightsError(f"{spec.name} would run code of another repository: {others[0]}.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
