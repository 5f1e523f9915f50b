"""Positions of tiles as vectors: sines and cosines of grid columns and rows.

Computed for each token from integers: there is no table to outgrow, and no coordinate that half
precision could not hold. Nothing is read or written.
"""

import numpy as np
import torch
from torch import Tensor

from slidemill.pretrain.packing import moved


def positions_2d(positions: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """Sine-cosine code of grid positions (Vaswani et al. 2017, arXiv:1706.03762), for two axes.

    The first half of the channels encodes x, the second y; each half is sin(p w_k) for all k, then
    cos(p w_k), with w_k = base^(-4k / width), k from 0 to width / 4 - 1. Computed in float32
    whatever autocast says: exact to 1e-4 over 1,000 columns, and finite with an error that grows in
    proportion beyond them (0.1 at 10^6).

    Args:
        positions: Integer (..., 2), column and row.
        width: Channels of the code, a multiple of 4.
        base: The longest wave has 2 pi base cells, the shortest 2 pi.

    Returns:
        float32 (..., width).

    Raises:
        ValueError: If the positions are not integers or the width is not a multiple of 4.
    """
    if positions.is_floating_point():
        raise ValueError(f"grid positions are integers, not {positions.dtype}")
    if width % 4:
        raise ValueError(f"the width of a position code is a multiple of 4, not {width}")
    rates = base ** (-np.arange(width // 4) / (width // 4))
    with torch.autocast(device_type=positions.device.type, enabled=False):
        rate = moved(torch.from_numpy(rates.astype(np.float32)), positions.device)
        angle = positions.to(torch.float32).unsqueeze(-1) * rate
        return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def tile_grid(coords: Tensor, tile_size: int) -> Tensor:
    """Column and row of each tile on a grid that starts at the slide's corner.

    Args:
        coords: Integer (..., 2), top-left corners (x, y), pixels of the level that tiles are of.
        tile_size: Edge of a tile, the same pixels.

    Returns:
        int64 (..., 2): floor(coords / tile_size).

    Raises:
        ValueError: If coords are not integers, or one is negative. Half precision is wrong from
            some 16,000 px on, so that floats are not taken at all.
    """
    if coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool:
        raise ValueError(f"coordinates are pixels in int64, not {coords.dtype}")
    if coords.numel() and int(coords.min()) < 0:
        raise ValueError(f"a coordinate is negative: {int(coords.min())} px")
    return coords.to(torch.int64).div(tile_size, rounding_mode="floor")
