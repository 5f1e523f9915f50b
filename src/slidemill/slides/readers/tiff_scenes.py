"""Which images of a TIFF may be a slide, and what the file says of each directory."""

import re
from dataclasses import dataclass
from enum import Enum

from tifffile import TiffFile, TiffPage

from slidemill.slides.readers.base import Size
from slidemill.slides.readers.tiff_levels import full_page
from slidemill.slides.readers.tiff_ome import OmeImage, ome_images

MAX_DIRECTORIES = 512
"""Directories that are looked at; a slide has a dozen."""
REDUCED, MASK, MACRO = 1, 4, 8
"""Bits of NewSubfileType: two of TIFF 6.0, and Aperio's."""
_OTHER_KINDS = {"label", "macro", "thumbnail", "overview"}


class Says(Enum):
    """What a file says of a directory: a level, a reduced image, nothing, full, another thing."""

    LEVEL = "level"
    REDUCED = "reduced"
    NOTHING = "nothing"
    FULL = "full"
    OTHER = "other"


@dataclass(frozen=True)
class Candidate:
    """A directory, or those which together are the colours of one image.

    Attributes:
        name: How it is called in messages.
        pages: The directories.
        says: What the file says of it.
        reason: Why it is no level, where the file says so.
        is_sub: Whether it is a SubIFD, which may come in strips and be a level all the same.
    """

    name: str
    pages: list[TiffPage]
    says: Says
    reason: str = ""
    is_sub: bool = False

    @property
    def size(self) -> Size:
        """Width and height, pixels, as stored."""
        return int(self.pages[0].imagewidth), int(self.pages[0].imagelength)

    @property
    def area(self) -> int:
        """Pixels."""
        return self.size[0] * self.size[1]

    @property
    def is_tiled(self) -> bool:
        """Whether it is stored in tiles, as levels are; thumbnails come in strips."""
        return bool(self.pages[0].is_tiled)


@dataclass(frozen=True)
class Image:
    """An image that may be a slide.

    Attributes:
        base: Its level 0.
        below: What may be its further levels: its SubIFDs.
        ome: What OME's XML says of it.
    """

    base: Candidate
    below: list[Candidate]
    ome: OmeImage | None = None


def directories(file: TiffFile) -> list[Candidate]:
    """All directories of the main chain, in order."""
    count = min(len(file.pages), MAX_DIRECTORIES)
    pages = [full_page(file.pages[index]) for index in range(count)]
    # A striped thumbnail that calls itself reduced does not make a habit of the file.
    marks = any(_subfile(page) & REDUCED and page.is_tiled for page in pages)
    found = []
    for number, page in enumerate(pages, start=1):
        says, reason = _said(file, page, marks=marks)
        size = f"{page.imagewidth} x {page.imagelength}"
        found.append(Candidate(f"directory {number} ({size})", [page], says, reason))
    return found


def image_of(base: Candidate) -> Image:
    """An image with its SubIFDs."""
    return Image(base, sub_images(base.name, base.pages))


def sub_images(name: str, pages: list[TiffPage]) -> list[Candidate]:
    """The SubIFDs of an image, which are its levels."""
    subs = [[full_page(sub) for sub in (page.pages or ())] for page in pages if page.subifds]
    if len(subs) < len(pages):
        return []
    return [
        Candidate(
            f"SubIFD {number} of {name} ({group[0].imagewidth} x {group[0].imagelength})",
            list(group),
            Says.OTHER if _subfile(group[0]) & MASK else Says.LEVEL,
            "it is a mask" if _subfile(group[0]) & MASK else "",
            is_sub=True,
        )
        for number, group in enumerate(zip(*subs, strict=False), start=1)
    ]


def ome_scenes(file: TiffFile, every: list[Candidate]) -> tuple[list[Image], list[Candidate]]:
    """The images of an OME-TIFF, and the directories that belong to none of them."""
    found = []
    taken: set[int] = set()
    for image in ome_images(file):
        if image.first >= len(every):
            continue
        taken |= set(range(image.first, image.first + image.planes))
        first = every[image.first]
        group = every[image.first : image.first + (3 if image.channels == 3 else 1)]
        base = Candidate(first.name, [one.pages[0] for one in group], Says.FULL)
        found.append(Image(base, sub_images(base.name, base.pages), image))
    return found, [one for index, one in enumerate(every) if index not in taken]


def _said(file: TiffFile, page: TiffPage, *, marks: bool) -> tuple[Says, str]:
    """What a file says of a directory, and why it is no level where it says so."""
    bits = _subfile(page)
    text = page.description or ""
    if bits & MASK:
        return Says.OTHER, "it is a mask"
    if file.is_svs:
        return _aperio_said(page, text, bits)
    kind = re.search(r"<ImageType>\s*(\w+)\s*</ImageType>", text)  # PerkinElmer
    if kind and kind[1].lower() in _OTHER_KINDS:
        return Says.OTHER, f"the file calls it {kind[1]}"
    if bits & REDUCED:
        return Says.REDUCED, ""
    if marks:
        return Says.FULL, "the file does not mark it as a reduced image, as it does with others"
    return Says.NOTHING, ""


def _aperio_said(page: TiffPage, text: str, bits: int) -> tuple[Says, str]:
    """Aperio's rule: the second line names what is no level, `a x b -> c x d` what is one."""
    head = text.partition("|")[0].splitlines()
    word = head[1].split()[0].lower() if len(head) > 1 and head[1].split() else ""
    if word in _OTHER_KINDS or bits & MACRO:
        return Says.OTHER, f"the file calls it {word or 'macro'}"
    into = re.findall(r"->\s*(\d+)x(\d+)", " ".join(head))
    if into and tuple(map(int, into[-1])) == (page.imagewidth, page.imagelength):
        return Says.LEVEL, ""
    return (Says.REDUCED if bits & REDUCED else Says.NOTHING), ""


def _subfile(page: TiffPage) -> int:
    """NewSubfileType, or what its predecessor says."""
    tag = page.tags.get(254)
    if tag is not None and isinstance(tag.value, int):
        return int(tag.value)
    old = page.tags.get(255)
    return REDUCED if old is not None and old.value == 2 else 0
