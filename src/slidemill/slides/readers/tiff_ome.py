"""Which images an OME-TIFF has, by its XML."""

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from tifffile import TiffFile

from slidemill.slides.readers.base import UnsupportedError


@dataclass(frozen=True)
class OmeImage:
    """One image.

    Attributes:
        name: Its name; empty without one.
        first: Index of its first directory.
        planes: How many directories it has.
        channels: Directories that are one colour each; 1 where a directory has all of them.
        properties: Its metadata: size of a pixel, objective power.
    """

    name: str
    first: int
    planes: int
    channels: int
    properties: dict[str, str]


def ome_images(file: TiffFile) -> list[OmeImage]:
    """The images of an OME-TIFF which lie in this file, in its order; the first if none is told."""
    text = file.pages.first.description or ""
    root = _parsed(text)
    samples = int(file.pages.first.samplesperpixel)
    if root is None:
        found = re.search(r'SizeC="(\d+)"', text)
        return [OmeImage("", 0, 1, int(found[1]) if found and samples == 1 else 1, {})]
    elements = root.findall("{*}Image")
    images = []
    following = 0
    for element in elements:
        image = _image(root, element, following, alone=len(elements) == 1)
        if image is not None and image.first < len(file.pages):
            images.append(image)
            following = image.first + image.planes
    return images or [OmeImage("", 0, 1, 1, {})]


def check_channels(image: OmeImage, pages: int) -> None:
    """Refuse what is no colour image.

    Raises:
        UnsupportedError: If it has channels of its own.
    """
    count = image.channels
    if count != 1 and (count != 3 or pages - image.first < 3):
        raise UnsupportedError(f"it has {count} channels (fluorescence?), not red, green and blue")


def _parsed(text: str) -> ElementTree.Element | None:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        # Without a DTD, which was refused above, there are no entities to expand.
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def _image(
    root: ElementTree.Element, element: ElementTree.Element, following: int, *, alone: bool
) -> OmeImage | None:
    """An image, or None where its pixels lie in another file."""
    pixels = element.find("{*}Pixels")
    if pixels is None:
        return None
    data = pixels.findall("{*}TiffData")
    own = [one for one in data if _is_here(root, one)]
    if data and not own:
        return None
    samples = max(
        (_whole(c.get("SamplesPerPixel"), 1) for c in pixels.iterfind("{*}Channel")), default=1
    )
    channels = max(1, _whole(pixels.get("SizeC"), 1) // samples)
    stacks = _whole(pixels.get("SizeZ"), 1) * _whole(pixels.get("SizeT"), 1)
    first = min((_whole(one.get("IFD"), 0) for one in own), default=following)
    properties = {
        f"ome.{name}": value
        for name, value in pixels.attrib.items()
        if name.startswith("PhysicalSize")
    }
    power = _power(root, element, alone=alone)
    if power:
        properties["openslide.objective-power"] = power
    name = (element.get("Name") or "").strip()
    return OmeImage(name, first, max(1, channels * stacks), channels, properties)


def _is_here(root: ElementTree.Element, data: ElementTree.Element) -> bool:
    """Whether pixels lie in this file; a copy may have another name, but not another UUID."""
    identity = data.find("{*}UUID")
    mine = root.get("UUID")
    return identity is None or mine is None or (identity.text or "").strip() == mine.strip()


def _power(root: ElementTree.Element, element: ElementTree.Element, *, alone: bool) -> str | None:
    """Magnification of the image's objective; that of the file's only image without a reference."""
    objectives = list(root.iterfind(".//{*}Objective"))
    settings = element.find("{*}ObjectiveSettings")
    if settings is not None:
        objectives = [one for one in objectives if one.get("ID") == settings.get("ID")]
    elif not alone:
        return None
    return objectives[0].get("NominalMagnification") if objectives else None


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.strip().isdecimal() else default
