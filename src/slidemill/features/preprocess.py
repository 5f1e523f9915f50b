"""From tiles of uint8 pixels to what a network is given, on the device where they are.

Encoders were trained on tiles that Pillow had resized: antialiased, with bytes in between. Other
filters give other features, and torch's antialiased resizing of floats differs from Pillow's by 20
grey levels at sharp edges. On a CPU torch resizes bytes, nearly as Pillow does; elsewhere it is
done here by two products of matrices. Both agree with Pillow within a grey level or, where halves
are rounded the other way in both passes, two.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.errors import ConfigError, Problem
from slidemill.features.spec import Interpolation, Preprocessing


class Preprocess(nn.Module):
    """Resize, crop and normalise a batch of tiles.

    Attributes:
        settings: What is done.
        scale: (1, 3, 1, 1) float32, what bytes are multiplied with: 1 / (255 std).
        shift: (1, 3, 1, 1) float32, what is added then: -mean / std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, settings: Preprocessing) -> None:
        """Take the settings.

        Raises:
            ValueError: If the crop is larger than what it is cut from.
        """
        super().__init__()
        if settings.resize_px is not None and settings.resize_px < settings.crop_px:
            raise ValueError(f"{settings.crop_px} px cannot be cut from {settings.resize_px} px")
        self.settings = settings
        mean, std = (torch.tensor(of, dtype=torch.float64) for of in (settings.mean, settings.std))
        # One pass over the pixels in place of three; they are bound by the memory.
        for name, values in (("scale", 1.0 / (255.0 * std)), ("shift", -mean / std)):
            self.register_buffer(name, values.float().view(1, 3, 1, 1), persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Prepare tiles.

        Args:
            tiles: RGB, (N, T, T, 3) uint8, on any device.

        Returns:
            (N, 3, crop_px, crop_px) float32, on the same device.

        Raises:
            ConfigError: If the network takes no other tiles than of `crop_px`, and these are.
        """
        images = tiles.permute(0, 3, 1, 2)
        wanted, edge = self.settings.resize_px, int(tiles.shape[1])
        if wanted is None:
            check_tile_px(self.settings, edge)
        elif edge != wanted:
            images = resize(images, wanted, self.settings.interpolation)
        margin = (int(images.shape[-1]) - self.settings.crop_px) // 2
        if margin:
            end = margin + self.settings.crop_px
            images = images[..., margin:end, margin:end]
        return torch.addcmul(self.shift, images.float(), self.scale)


def check_tile_px(settings: Preprocessing, tile_px: int) -> None:
    """See that tiles of a size can be prepared.

    Raises:
        ConfigError: If they would have to be resized and the encoder's authors do not do that.
    """
    if settings.resize_px is None and tile_px != settings.crop_px:
        what = f"tiles of {tile_px} px, but this encoder takes exactly {settings.crop_px} px"
        problem = Problem("tiles.tile_px", what, f"Set it to {settings.crop_px}, or to auto")
        raise ConfigError("features", [problem])


def resize(images: Tensor, edge: int, interpolation: Interpolation) -> Tensor:
    """Resize square images of bytes as Pillow does.

    Args:
        images: (N, 3, H, H) uint8, of any strides, on any device.
        edge: H of the result, pixels.
        interpolation: The filter.

    Returns:
        (N, 3, edge, edge), whole grey levels from 0 to 255: uint8 on a CPU, float32 elsewhere.
    """
    if images.device.type == "cpu":
        # Thirty times as fast there as products of matrices.
        return functional.interpolate(images, (edge, edge), mode=interpolation, antialias=True)
    return resize_by_products(images, edge, interpolation)


def resize_by_products(images: Tensor, edge: int, interpolation: Interpolation) -> Tensor:
    """Resize square images of bytes by two products of matrices; see `resize`.

    Rows are resized first and rounded to bytes, then columns: bicubic filters overshoot at edges,
    and what is cut off between the two passes shows.
    """
    # Half precision would lose grey levels; in an autocast region products are made in it.
    with torch.autocast(images.device.type, enabled=False):
        weights = filter_matrix(int(images.shape[-1]), edge, interpolation, images.device)
        return _bytes(weights @ _bytes(images.float() @ weights.T))


def _bytes(values: Tensor) -> Tensor:
    """Round halves up, as Pillow does (torch's own rounding goes to even), and clip."""
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)


def filter_matrix(
    size: int, edge: int, interpolation: Interpolation, device: torch.device
) -> Tensor:
    """What resizing multiplies a line of pixels with.

    The filter is a triangle, or the cubic of Keys (1981) with a = -0.5; it is as wide as the step
    between pixels of the result where that is the larger one (antialiasing), and its weights are
    made to add to 1 at the ends of the line.

    Args:
        size: Pixels of the line.
        edge: Pixels of the result.
        interpolation: The filter.
        device: Where it is needed.

    Returns:
        (edge, size) float32.
    """
    centres = torch.arange(edge, device=device).mul_(2).add_(1).unsqueeze(1) * size
    pixels = torch.arange(size, device=device).mul_(2).add_(1).unsqueeze(0) * edge
    # Whole numbers up to here: distances are exact. In steps of the coarser of both grids.
    x = (pixels - centres).abs().float() / (2.0 * max(size, edge))
    if interpolation == "bilinear":
        weights = (1.0 - x).clamp_(min=0.0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        weights = torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
