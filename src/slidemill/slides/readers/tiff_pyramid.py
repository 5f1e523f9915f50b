"""Which directories of a TIFF are the levels of a slide, and which slides it has.

Levels are what the file says: SubIFDs, Aperio's descriptions, reduced images by NewSubfileType. A
reduced image must not show something else than the level above, and a directory of which the file
says nothing must show the same. The largest image is level 0, wherever it stands.
"""

from dataclasses import dataclass, replace

from tifffile import TiffFile

from slidemill.slides.readers.base import (
    Layout,
    OpenError,
    SceneError,
    Size,
    UnsupportedError,
    is_like,
    true_size,
)
from slidemill.slides.readers.tiff_agree import Agreement, TiffImage, compare
from slidemill.slides.readers.tiff_levels import TiffLevel, level_of
from slidemill.slides.readers.tiff_ome import OmeImage, check_channels
from slidemill.slides.readers.tiff_scale import MIN_STEP, scales, stated_scale
from slidemill.slides.readers.tiff_scenes import (
    Candidate,
    Image,
    Says,
    directories,
    image_of,
    ome_scenes,
)
from slidemill.slides.readers.tiff_whole import check_pieces

CLEAR = 0.95
"""A correlation which ends the search for a better scale."""


@dataclass(frozen=True)
class Pyramid:
    """A slide in a TIFF.

    Attributes:
        levels: Its levels, finest first, without padding.
        stored: Width and height of each as stored, pixels.
        layout: What the file says of its structure.
        ome: What OME says of the image, if it does.
    """

    levels: tuple[TiffLevel, ...]
    stored: tuple[Size, ...]
    layout: Layout
    ome: OmeImage | None


@dataclass(frozen=True)
class _Found:
    level: TiffLevel
    stored: Size
    scale: float
    is_stated: bool
    candidate: Candidate
    image: TiffImage


def find_pyramid(file: TiffFile, descriptor: int, size: int, scene: str | None) -> Pyramid:
    """The levels of a slide.

    Args:
        file: The parsed file.
        descriptor: The same, open to read pixels.
        size: Its length, bytes.
        scene: Name of the scene; None for the largest, of which the first.

    Raises:
        UnsupportedError: If level 0 is of a kind that is not read, or there is no such scene.
        OpenError: If there is no directory, or it is damaged.
    """
    if not len(file.pages):
        raise OpenError("it has no directory")
    every = directories(file)
    grower = _Grower(descriptor, size)
    if file.is_ome:
        images, loose = ome_scenes(file, every)
    else:
        _check_no_channels(every)
        images, loose = [], every
    if not images:
        images, loose = _images_of(every, grower)
    names = _names(images)
    chosen = _choose(images, names, scene)
    image = images[chosen]
    if image.ome is not None:
        check_channels(image.ome, len(every))
    found, left_out = grower.grow(image, loose)
    if file.is_ome:
        left_out += tuple(
            f"{one.base.name}: it is an image of its own ({name})"
            for one, name in zip(images, names, strict=True)
            if one is not image and _looks_like(image.base.size, one.base)
        )
    return Pyramid(
        tuple(one.level for one in found),
        tuple(one.stored for one in found),
        Layout(
            stated=tuple(one.scale if one.is_stated else None for one in found),
            scene=names[chosen] if len(images) > 1 else None,
            other_scenes=tuple(name for i, name in enumerate(names) if i != chosen),
            left_out=left_out,
            is_exact=True,
        ),
        image.ome,
    )


def _check_no_channels(every: list[Candidate]) -> None:
    """Refuse channels that are a grey directory each, as fluorescence is stored.

    Raises:
        UnsupportedError: If more than one directory is grey and as large as the largest.
    """
    largest = max(every, key=lambda one: one.area)
    alike = [one for one in every if one.size == largest.size and one.pages[0].samplesperpixel == 1]
    if len(alike) > 1:
        raise UnsupportedError(
            f"it has {len(alike)} grey channels, a directory each (fluorescence?), not red, green "
            "and blue"
        )


def _images_of(every: list[Candidate], grower: "_Grower") -> tuple[list[Image], list[Candidate]]:
    """The images of a TIFF without OME: the largest, then whatever is no level of one before."""
    bases = [one for one in every if one.says not in (Says.OTHER, Says.REDUCED, Says.LEVEL)]
    tiled = [one for one in bases if one.is_tiled]
    first = max(bases or every, key=lambda one: one.area)
    if first.says is Says.NOTHING and tiled and not first.is_tiled and every[0] in tiled:
        # Aperio's macro may be larger than a small slide, and is never tiled.
        first = max(tiled, key=lambda one: one.area)
    images = [image_of(first)]
    left = [one for one in every if one is not first]
    open_bases = [one for one in tiled if one is not first]
    while open_bases:
        used = {id(one.candidate) for one in grower.grow(images[-1], left)[0]}
        left = [one for one in left if id(one) not in used]
        open_bases = [one for one in open_bases if id(one) not in used]
        if open_bases:
            base = max(open_bases, key=lambda one: one.area)
            open_bases.remove(base)
            images.append(image_of(base))
    order = {id(one): index for index, one in enumerate(every)}
    images.sort(key=lambda image: order[id(image.base)])
    return images, every


def _names(images: list[Image]) -> list[str]:
    """The name of every image, or its number from 1 where it has none of its own."""
    own = [image.ome.name if image.ome is not None else "" for image in images]
    return [
        name if name and own.count(name) == 1 else str(number)
        for number, name in enumerate(own, start=1)
    ]


def _choose(images: list[Image], names: list[str], scene: str | None) -> int:
    if scene is None:
        return max(range(len(images)), key=lambda index: images[index].base.area)
    wanted = scene.strip()
    own = [image.ome.name if image.ome is not None else "" for image in images]
    for known in (names, own, [str(number) for number in range(1, len(images) + 1)]):
        if known.count(wanted) == 1:
            return known.index(wanted)
    raise SceneError(f"it has no scene {scene!r}; its scenes are {', '.join(map(repr, names))}")


class _Grower:
    """Finds the levels of images of one file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size

    def grow(self, image: Image, loose: list[Candidate]) -> tuple[list[_Found], tuple[str, ...]]:
        """The levels of an image, finest first, and what looked like one."""
        base = level_of(image.base.pages)
        found = [_Found(base, base.size, 1.0, False, image.base, TiffImage(self._descriptor, base))]
        left_out = []
        others = [one for one in loose if one.pages[0] is not image.base.pages[0]]
        for candidate in sorted(image.below + others, key=lambda one: -one.area):
            added = self._next(found, candidate)
            if isinstance(added, _Found):
                found.append(added)
            elif added:
                left_out.append(f"{candidate.name}: {added}")
        return found, tuple(left_out)

    def _next(self, found: list[_Found], candidate: Candidate) -> "_Found | str":
        """A candidate as the next level, or why it is none; empty where it never looked like it."""
        base, above = found[0], found[-1]
        if not candidate.is_tiled and not candidate.is_sub:
            return ""
        full = base.level.size
        looks = _looks_like(full, candidate)
        if candidate.says in (Says.OTHER, Says.FULL):
            return candidate.reason if looks else ""
        try:
            level = level_of(candidate.pages)
        except OpenError as fault:
            return str(fault) if looks else ""
        tile = level.segment if candidate.is_tiled else None
        stated = stated_scale(base.candidate.pages[0], candidate.pages[0])
        known, is_stated = scales(full, above.scale, level.size, tile, stated)
        if not known:
            reason = f"it is less than {MIN_STEP:g} times smaller than the level above it"
            return reason if looks else ""
        for page in {page for page, _ in level.planes}:
            check_pieces(page, self._size)
        image = TiffImage(self._descriptor, level)
        scale = self._scale(above, image, candidate.says, known)
        if scale is None:
            return f"it shows something else than the level above it ({above.candidate.name})"
        level = replace(level, size=true_size(full, level.size, tile, scale))
        image = TiffImage(self._descriptor, level)
        return _Found(level, candidate.size, scale, is_stated, candidate, image)

    def _scale(
        self, above: _Found, image: TiffImage, says: Says, known: list[float]
    ) -> float | None:
        """The scale at which a candidate shows what the level above does, or None."""
        if says is Says.LEVEL and len(known) == 1:
            return known[0]
        best: tuple[float, float] | None = None
        for scale in known:
            agreement = compare(above.image, image, scale / above.scale)
            if not _is_good(agreement, says):
                continue
            if best is None or agreement.correlation > best[0]:
                best = (agreement.correlation, scale)
            if agreement.correlation >= CLEAR or not agreement.telling:
                break
        if best is None:
            return known[0] if says is Says.LEVEL else None
        return best[1]


def _looks_like(full: Size, candidate: Candidate) -> bool:
    """Whether a directory could be taken for a level by its size and shape."""
    is_smaller = all(own < edge for own, edge in zip(candidate.size, full, strict=True))
    return is_smaller and candidate.is_tiled and is_like(full, candidate.size)


def _is_good(agreement: Agreement, says: Says) -> bool:
    return agreement.is_confirmed if says is Says.NOTHING else not agreement.is_refuted
