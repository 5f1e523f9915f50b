"""What to look at, and what to change, where tissue was left out or none was found.

Words, and trials of other settings on a picture that is in memory. Nothing is decided here: a trial
says what a setting would give, and changes no result.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from slidemill.config import TissueConfig
from slidemill.errors import SlideCode, SlideError
from slidemill.tissue.classes import KINDS_OF, Kind, TissueClass
from slidemill.tissue.find import Method, TissueMap, find_tissue

MUCH = 0.2
"""Share of what is coloured like stain from which on its exclusion is worth a look."""
NAMES = {
    TissueClass.PEN: "pen",
    TissueClass.BLACK: "a dark border",
    TissueClass.OTHER: "edges or bubbles",
    TissueClass.UNREADABLE: "unreadable",
}


def remark(tissue: TissueMap) -> str | None:
    """What a person should look at though tissue was found; None where that is nothing.

    Args:
        tissue: The result; `taken` says what was left out.
    """
    if sum(tissue.taken.values()) <= MUCH:
        return None
    found = {kind: share for kind, share in tissue.taken.items() if share >= 0.005}
    shares = ", ".join(f"{share:.0%} {NAMES[kind]}" for kind, share in found.items())
    return (
        f"of all that is coloured like stain, {shares} was left out; if the overlay shows tissue "
        f"there, {_how_to_keep(found)}"
    )


def no_tissue(
    path: str,
    tissue: TissueMap,
    config: TissueConfig,
    kinds: Sequence[Kind],
    picture: tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], float],
) -> SlideError:
    """The fault of a slide in which there is no tissue, with what would find some.

    Args:
        path: The slide.
        tissue: The result, without tissue.
        config: Settings of the stage.
        kinds: What was left out of this slide.
        picture: The overview, where it does not decode, and its um per pixel.
    """
    share = {kind: float((tissue.classes == kind).mean()) for kind in NAMES}
    seen = ", ".join(f"{part:.0%} is {NAMES[kind]}" for kind, part in share.items() if part > 0.005)
    return SlideError(
        SlideCode.NO_TISSUE,
        f"{path}: method {config.method} finds no tissue of at least {config.min_area_mm2} square "
        f"mm{f' ({seen})' if seen else ''}; {_todo(config, tissue, kinds, picture)}",
    )


def _todo(
    config: TissueConfig,
    tissue: TissueMap,
    kinds: Sequence[Kind],
    picture: tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], float],
) -> str:
    look = "look at the slide's .jpg in the tissue stage's folder"
    if config.method == "import":
        return f"{look}, and correct the polygons: they cover no pixel of the mask"
    if config.method == "unet":
        return f"{look}; check tissue.unet.classes, mpp, mean and std, or take another method"
    found = []
    taken = {kind: 1.0 for kind in KINDS_OF if (tissue.classes == kind).any()}
    if taken:
        less = tuple(k for k in kinds if not any(k in KINDS_OF[kind] for kind in taken))
        area = _area(config.method, config, less, picture)
        if area:
            found.append(f"{_how_to_keep(taken)}, which gives {area:.2f} square mm")
    others = [method for method in get_args(Method) if method != config.method]
    for method in others:
        area = _area(method, config, kinds, picture)
        if area:
            found.append(f"set tissue.method {method}: it finds {area:.2f} square mm")
    if found:
        return f"{look}, and if there is tissue {', or '.join(found)}"
    tried = " and ".join(others)
    return f"{tried} find none either; {look}, and if there is tissue lower tissue.min_area_mm2"


def _area(
    method: Method,
    config: TissueConfig,
    kinds: Sequence[Kind],
    picture: tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], float],
) -> float:
    """Tissue that other settings find, square mm."""
    pixels, unreadable, mpp = picture
    found = find_tissue(
        pixels,
        mpp,
        method=method,
        min_area_mm2=config.min_area_mm2,
        min_hole_mm2=config.min_hole_mm2,
        unreadable=unreadable,
        exclude=kinds,
    )
    return float(found.mask.sum() * (mpp / 1000) ** 2)


def _how_to_keep(taken: Mapping[TissueClass, float]) -> str:
    words = " and ".join(kind for found in taken for kind in KINDS_OF[found])
    return f"take {words} out of tissue.exclude, or out of this slide's exclude in the sheet"
