"""What a builder gives: a network whose tokens are told apart, and the choice of a feature.

Knows tensors, no files. A class token, registers and patch tokens are kept apart from the moment
they leave the network, so that no register is ever averaged in (see `prefix_tokens` of timm).
"""

from dataclasses import dataclass

from torch import Tensor, cat, float32, nn

from slidemill.features.spec import Output


@dataclass(frozen=True)
class Tokens:
    """What a network says about N images; what it does not have is None.

    Attributes:
        cls: (N, D), the class token.
        patches: (N, rows, columns, D), the patch tokens in their grid.
        pooled: (N, D), what the network itself pools.
    """

    cls: Tensor | None = None
    patches: Tensor | None = None
    pooled: Tensor | None = None


class Network(nn.Module):
    """An image network under one interface.

    Attributes:
        body: The network as its library makes it; its state dict is what checkpoints hold.
        width: Length of a token, D.
        prefix_tokens: Tokens before the patch tokens: class token and registers.
    """

    def __init__(self, body: nn.Module, width: int, prefix_tokens: int) -> None:
        super().__init__()
        self.body = body
        self.width = width
        self.prefix_tokens = prefix_tokens

    def forward(self, images: Tensor) -> Tokens:
        """Run the network.

        Args:
            images: (N, 3, H, W), normalised.
        """
        raise NotImplementedError


def select(tokens: Tokens, output: Output) -> Tensor:
    """The feature that was asked for.

    Returns:
        (N, D), or (N, 2 D) for `cls+mean`.

    Raises:
        ValueError: If the network does not have it.
    """
    if output == "pooled" and tokens.pooled is not None:
        return tokens.pooled
    if output == "cls" and tokens.cls is not None:
        return tokens.cls
    if output == "mean" and tokens.patches is not None:
        return tokens.patches.mean(dim=(1, 2), dtype=float32)
    if output == "cls+mean" and tokens.cls is not None and tokens.patches is not None:
        mean = tokens.patches.mean(dim=(1, 2), dtype=float32)
        return cat([tokens.cls.float(), mean], dim=1)
    raise ValueError(f"the network has no {output}")
