"""What the metadata of a TIFF say, by OpenSlide's names where it has some."""

from tifffile import TiffFile, TiffPage

UNITS = {1: "none", 2: "inch", 3: "centimeter"}


def describe(file: TiffFile, page: TiffPage, ome: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Vendor and metadata of one image of a TIFF.

    Args:
        file: The file.
        page: The directory of the image.
        ome: What OME's XML says of it.
    """
    found: dict[str, str] = {}
    for name in ("XResolution", "YResolution"):
        value = resolution(page, name)
        if value is not None:
            found[f"tiff.{name}"] = repr(value)
    unit = page.tags.get("ResolutionUnit")
    # TIFF 6.0: without the tag the unit is the inch.
    code = int(unit.value) if unit is not None else 2
    found["tiff.ResolutionUnit"] = UNITS.get(code, "unknown")
    text = page.description or ""
    if file.is_ome:
        # The XML of the file stands in its first directory only.
        text = text or file.pages.first.description or ""
    if text:
        found["tiff.ImageDescription"] = text
    if file.is_svs:
        return "aperio", found | _aperio(text)
    if file.is_ome:
        return "ome", found | ome
    return "generic-tiff", found


def resolution(page: TiffPage, name: str) -> float | None:
    """A resolution tag, pixels per unit; None where there is none."""
    tag = page.tags.get(name)
    value = tag.value if tag is not None else None
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0] / value[1])
    return None


def _aperio(text: str) -> dict[str, str]:
    """`key = value` pairs between bars, as Aperio writes them."""
    pairs = (part.partition("=") for part in text.split("|")[1:])
    found = {f"aperio.{key.strip()}": value.strip() for key, sign, value in pairs if sign}
    if "aperio.AppMag" in found:
        found["openslide.objective-power"] = found["aperio.AppMag"]
    return found
