"""A network as a tile encoder: bytes in, features out, on any device.

Preprocessing is part of it and runs on the device. Nothing here depends on the number of tiles in
a batch, and a tile's feature does not depend on its neighbours in it.
"""

from typing import NamedTuple

from torch import Tensor, nn

from slidemill.features.network import Network, select
from slidemill.features.preprocess import Preprocess, check_tile_px
from slidemill.features.spec import Output, Preprocessing


class Encoded(NamedTuple):
    """What an encoder says about N tiles.

    Attributes:
        features: (N, D) float32.
        tokens: (N, rows, columns, W) patch tokens, in the network's own arithmetic; None where
            they were not asked for.
    """

    features: Tensor
    tokens: Tensor | None


class TorchEncoder(nn.Module):
    """A tile encoder.

    Attributes:
        network: The network.
        preprocess: What tiles go through before it.
        output: What of it is the feature.
        dim: Length of a feature, D.
        width: Length of a patch token, W.
        input_px: Edge of the network's input, pixels.
        tile_px: Edge that tiles have to have, pixels; None where they are resized.
    """

    def __init__(
        self, network: Network, preprocessing: Preprocessing, output: Output, *, tokens: bool
    ) -> None:
        """Put an encoder together.

        Args:
            network: Built, with its weights.
            preprocessing: Of its tiles.
            output: What of it is the feature.
            tokens: Whether patch tokens are given too.
        """
        super().__init__()
        self.network = network
        self.preprocess = Preprocess(preprocessing)
        self.output = output
        self.dim = 2 * network.width if output == "cls+mean" else network.width
        self.width = network.width
        self.input_px = preprocessing.crop_px
        self.tile_px = None if preprocessing.resize_px is not None else preprocessing.crop_px
        self._with_tokens = tokens

    def forward(self, tiles: Tensor) -> Encoded:
        """Encode tiles.

        Args:
            tiles: RGB, (N, T, T, 3) uint8, on the encoder's device.

        Raises:
            ConfigError: If the encoder takes tiles of one size only, and these have another.
            ValueError: If the network has no such output, or no patch tokens though they were
                asked for.
        """
        found = self.network(self.preprocess(tiles))
        features = select(found, self.output).float()
        if not self._with_tokens:
            return Encoded(features, None)
        if found.patches is None:
            raise ValueError("the network has no patch tokens")
        return Encoded(features, found.patches)

    def check(self, tile_px: int) -> None:
        """See that tiles of a size can be encoded, before any is read.

        Raises:
            ConfigError: If they cannot.
        """
        check_tile_px(self.preprocess.settings, tile_px)
