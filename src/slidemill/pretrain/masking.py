"""Masks: which tiles of which crops are hidden from the student.

Pure draws; nothing is read. How much of a crop is hidden is drawn for all crops of a step together
(`mask_ratios`), which tiles for each crop alone (`mask_crop`).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from slidemill.config.pretrain import IbotConfig
from slidemill.pretrain.bags import Int64Array


def mask_ratios(
    crops: int, config: IbotConfig, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw how much of each crop of a step is hidden.

    As in DINOv2 (Oquab et al. 2023, arXiv:2304.07193): a fixed share of the crops is masked, and
    their ratios are stratified: with n masked crops, the range is cut into n equal parts and one
    ratio is drawn uniformly in each. Which crop gets which is random.

    Args:
        crops: Crops of the step, at least 1.
        config: Share of the crops that are masked, and range of the ratios.
        rng: Source of the draws.

    Returns:
        float64 (crops,): 0 for a crop that is not masked. max(1, round(masked_crops x crops)) are.
    """
    masked = max(1, round(config.masked_crops * crops))
    edges = np.linspace(*config.ratio, masked + 1)
    ratios = np.zeros(crops)
    ratios[:masked] = rng.uniform(edges[:-1], edges[1:])
    return rng.permutation(ratios)


def mask_crop(
    positions: Int64Array, ratio: float, kind: Literal["random", "block"], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draw the tiles of a crop that are hidden.

    Args:
        positions: int64 (M, 2), column and row of each tile, M at least 1.
        ratio: Share of the tiles to hide, below 1; 0 hides none.
        kind: `random` hides single tiles, drawn uniformly. `block` hides the nearest to a tile that
            is drawn uniformly, itself among them, by Chebyshev distance; among equally far ones it
            draws. On full tissue that is a square.
        rng: Source of the draws.

    Returns:
        bool (M,), true for hidden tiles: round(ratio x M) of them, at least 1 and never all. In a
        crop of one tile none is hidden.
    """
    tiles = len(positions)
    hidden = np.zeros(tiles, dtype=np.bool_)
    if ratio == 0.0 or tiles == 1:
        return hidden
    count = min(max(1, round(ratio * tiles)), tiles - 1)
    order = rng.permutation(tiles)
    if kind == "block":
        far = np.abs(positions - positions[rng.integers(tiles)]).max(axis=1)
        order = order[np.argsort(far[order], kind="stable")]
    hidden[order[:count]] = True
    return hidden
