"""Small DICOM series that tests write: uncompressed, JPEG or JPEG 2000, in any layout."""

from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
PLAIN, JPEG, JPEG_2000 = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.91",
)


def picture(width, height, seed=0):
    """Smooth RGB in which every place looks different."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / width, 255 * y / height
    blue = 127 + 100 * np.sin((x + y) / 40 + seed)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def reduced(pixels, factor):
    """A picture, averaged over squares of a factor."""
    height, width = (edge // factor * factor for edge in pixels.shape[:2])
    parts = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return parts.mean(axis=(1, 3)).round().astype(np.uint8)


def padded(pixels, tile, fill=255):
    """A picture of whole tiles."""
    below, beyond = (-edge % tile for edge in pixels.shape[:2])
    return np.pad(pixels, ((0, below), (0, beyond), (0, 0)), constant_values=fill)


def tiles(pixels, tile):
    """Left, top and pixels of every tile, row by row."""
    whole = padded(pixels, tile)
    for y in range(0, whole.shape[0], tile):
        for x in range(0, whole.shape[1], tile):
            yield x, y, np.ascontiguousarray(whole[y : y + tile, x : x + tile])


def write(
    path: Path,
    pixels,
    *,
    tile=64,
    um=0.5,
    series="1.2.3.1",
    flavour="VOLUME",
    syntax=PLAIN,
    organization="TILED_FULL",
    placed=None,
    frames=None,
    size=None,
    **attributes,
):
    """Write one instance.

    `frames` are (left, top, pixels), by default those of the picture; with `placed`, or if sparse,
    each says where it lies. An attribute of None is removed.
    """
    frames = list(tiles(pixels, tile)) if frames is None else frames
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = WHOLE_SLIDE
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    one = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = WHOLE_SLIDE, meta.MediaStorageSOPInstanceUID
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", series
    one.FrameOfReferenceUID = "1.2.3.9"
    one.Modality = "SM"
    derived = "ORIGINAL" if um == 0.5 else "DERIVED"
    one.ImageType = [derived, "PRIMARY", flavour, "NONE" if um == 0.5 else "RESAMPLED"]
    one.Rows = one.Columns = tile
    width, height = size or (pixels.shape[1], pixels.shape[0])
    one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows = width, height
    one.ImagedVolumeWidth, one.ImagedVolumeHeight = width * um / 1000, height * um / 1000
    one.ImagedVolumeDepth = 0.001
    one.TotalPixelMatrixFocalPlanes = one.NumberOfOpticalPaths = 1
    one.FocusMethod, one.ExtendedDepthOfField = "AUTO", "NO"
    one.NumberOfFrames = len(frames)
    one.SamplesPerPixel, one.PlanarConfiguration = 3, 0
    one.BitsAllocated = one.BitsStored = 8
    one.HighBit, one.PixelRepresentation = 7, 0
    one.PhotometricInterpretation = {PLAIN: "RGB", JPEG: "YBR_FULL_422", JPEG_2000: "YBR_ICT"}[
        syntax
    ]
    one.DimensionOrganizationType = organization
    one.SharedFunctionalGroupsSequence = Sequence([_shared(um)])
    if placed or (placed is None and organization == "TILED_SPARSE"):
        one.PerFrameFunctionalGroupsSequence = Sequence([_position(x, y) for x, y, _ in frames])
    data = [_encoded(frame, syntax) for _, _, frame in frames]
    one.PixelData = encapsulate(data) if syntax != PLAIN else b"".join(data)
    one["PixelData"].VR = "OB"
    if syntax != PLAIN:
        one["PixelData"].is_undefined_length = True
    for name, value in attributes.items():
        if value is None:
            delattr(one, name)
        else:
            setattr(one, name, value)
    one.save_as(path, enforce_file_format=True)
    return path


def _shared(um):
    measures, shared, kind, optical = Dataset(), Dataset(), Dataset(), Dataset()
    # Few digits, as scanners write them.
    measures.PixelSpacing = [f"{um / 1000:.7f}"] * 2
    measures.SliceThickness = "0.001"
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    optical.OpticalPathIdentifier = "0"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.WholeSlideMicroscopyImageFrameTypeSequence = Sequence([kind])
    shared.OpticalPathIdentificationSequence = Sequence([optical])
    return shared


def _position(x, y):
    at, frame = Dataset(), Dataset()
    at.ColumnPositionInTotalImagePixelMatrix, at.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    at.XOffsetInSlideCoordinateSystem = at.YOffsetInSlideCoordinateSystem = "0"
    at.ZOffsetInSlideCoordinateSystem = "0"
    frame.PlanePositionSlideSequence = Sequence([at])
    return frame


def _encoded(pixels, syntax):
    if syntax == PLAIN:
        return pixels.tobytes()
    if syntax == JPEG:
        return imagecodecs.jpeg8_encode(pixels, level=95, subsampling="422")
    return imagecodecs.jpeg2k_encode(
        pixels, level=50, reversible=False, mct=True, codecformat="j2k"
    )
