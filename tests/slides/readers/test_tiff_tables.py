"""Damaged tables of a directory: a read error where it is, or a slide that fails; never glass."""

import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.readers import tiff_tables

PIXELS = np.random.default_rng(0).integers(0, 256, (320, 448, 3), dtype=np.uint8)
ACROSS, EDGE = 7, 64


def write(path, pixels=PIXELS, **options):
    kind = {"tile": (EDGE, EDGE), "photometric": "rgb", "compression": "deflate"} | options
    tifffile.imwrite(path, pixels, **kind)
    return path


def edit(path, name, change):
    """Overwrite entries of a tag of the first directory; its values as a list go to `change`."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags[name]
        values = list(tag.value) if isinstance(tag.value, tuple) else tag.value
        tag.overwrite(change(values))


def zeroed(*numbers):
    return lambda values: [0 if n in numbers else value for n, value in enumerate(values)]


def read(slide, number):
    row, column = divmod(number, ACROSS)
    return slide.read(0, column * EDGE, row * EDGE, EDGE, EDGE)


def truth(number):
    row, column = divmod(number, ACROSS)
    return PIXELS[row * EDGE :, column * EDGE :][:EDGE, :EDGE]


def fails(path, code, reader="auto"):
    with pytest.raises(SlideError) as caught, Slide(path, reader):
        pass
    assert caught.value.code == code, caught.value.message
    return caught.value.message


@pytest.mark.parametrize("table", ["TileByteCounts", "TileOffsets"])
def test_a_piece_that_lost_its_place_or_length_is_an_error(tmp_path, table):
    path = write(tmp_path / "a.tif")
    edit(path, table, zeroed(3, 4, 5))
    with Slide(path) as slide:
        assert slide.reader.startswith("tiff")
        for number in range(35):
            if number in (3, 4, 5):
                with pytest.raises(SlideError) as caught:
                    read(slide, number)
                assert caught.value.code == SlideCode.READ_ERROR
            else:
                assert (read(slide, number) == truth(number)).all()
    assert "only the reader tiff" in fails(path, SlideCode.UNREADABLE, "openslide")


def with_holes(path, *numbers):
    edit(path, "TileByteCounts", zeroed(*numbers))
    edit(path, "TileOffsets", zeroed(*numbers))


def test_blank_pieces_that_were_left_away_are_glass(tmp_path):
    path = write(tmp_path / "a.tif")
    with_holes(path, 3, 4)
    for reader in ("auto", "openslide"):
        with Slide(path, reader) as slide:
            assert (read(slide, 3) == 255).all()
            assert (read(slide, 6) == truth(6)).all()


def test_holes_beside_blank_pieces_that_are_stored_are_lost(tmp_path, monkeypatch):
    pixels = PIXELS.copy()
    pixels[:EDGE, :EDGE] = 242
    path = write(tmp_path / "a.tif", pixels)
    with_holes(path, 3)
    with Slide(path) as slide, pytest.raises(SlideError, match="leaves none away"):
        read(slide, 3)
    fails(path, SlideCode.UNREADABLE, "openslide")
    # Tables so long that no lost block hits both entries of a piece.
    monkeypatch.setattr(tiff_tables, "BLOCK_BYTES", 100)
    with Slide(path) as slide:
        assert (read(slide, 3) == 255).all()


def test_aperio_leaves_no_tile_away(tmp_path):
    text = "Aperio Image Library v11\r\n448x320 [0,0 448x320] (64x64)|AppMag = 20|MPP = 0.5"
    path = write(tmp_path / "a.svs", compression="jpeg", description=text, metadata=None)
    with_holes(path, 3)
    with Slide(path) as slide, pytest.raises(SlideError, match="leaves none away"):
        read(slide, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("ImageWidth", 65535), ("ImageWidth", 300), ("TileLength", 65504)]
)
def test_tables_of_another_geometry_fail_the_slide(tmp_path, name, value):
    path = write(tmp_path / "a.tif", compression="jpeg")
    edit(path, name, lambda _: value)
    for reader in ("auto", "openslide", "tiff"):
        assert "its tables have" in fails(path, SlideCode.UNREADABLE, reader)


def test_an_absurd_edge_of_jpeg_fails_the_slide(tmp_path):
    """It is one piece by its geometry too, and would be handed to a decoder that is not strict."""
    path = write(tmp_path / "a.tif", PIXELS[:EDGE, :EDGE], compression="jpeg")
    edit(path, "TileLength", lambda _: 65536)
    assert "JPEG" in fails(path, SlideCode.UNREADABLE)


def test_an_offset_that_is_repeated_is_damage_unless_the_piece_is_blank(tmp_path):
    pixels = PIXELS.copy()
    pixels[:EDGE, : 2 * EDGE] = 242
    path = write(tmp_path / "a.tif", pixels)

    def repeat(values):
        values[1] = values[0]
        values[9] = values[10]
        return values

    edit(path, "TileOffsets", repeat)
    edit(path, "TileByteCounts", repeat)
    with Slide(path) as slide:
        assert (read(slide, 1) == 242).all()
        for number in (9, 10):
            with pytest.raises(SlideError, match="another one"):
                read(slide, number)
        assert (read(slide, 11) == truth(11)).all()


def test_the_damaged_slides_of_the_issue(shared):
    cases, slides = shared / "cases" / "directory-damage", shared / "slides"
    fails(cases / "cmu_width65535.svs", SlideCode.UNREADABLE)
    errors = 0
    # The zeroed sector has 94 lengths of tiles, and a part of the JPEG tables of all of them.
    with (
        Slide(cases / "cmu_sector2495.svs") as slide,
        Slide(slides / "CMU-1-Small-Region.svs") as sound,
    ):
        for y in range(0, 2967, 240):
            for x in range(0, 2220, 240):
                try:
                    assert (slide.read(0, x, y, 240, 240) == sound.read(0, x, y, 240, 240)).all()
                except SlideError as error:
                    assert error.code == SlideCode.READ_ERROR
                    errors += 1
    assert errors == 130


def test_a_vendors_tables_that_lost_lengths_fail_the_slide(shared, tmp_path):
    """OpenSlide alone reads them, and makes glass of all without a length."""
    path = tmp_path / "slide.scn"
    path.write_bytes((shared / "cases" / "bounds" / "slide.scn").read_bytes())
    with Slide(path) as slide:
        assert slide.reader.startswith("openslide")
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[1].tags["TileByteCounts"]
        tag.overwrite(zeroed(5, 6)(tag.value))
    assert "lost their length" in fails(path, SlideCode.UNREADABLE)


@pytest.mark.parametrize("table", ["TileOffsets", "TileByteCounts"])
def test_pieces_that_lie_across_each_other_are_errors(tmp_path, table):
    path = write(tmp_path / "a.tif", compression=None)
    edit(path, table, lambda values: [v + 64 * (n == 4) for n, v in enumerate(values)])
    with Slide(path) as slide:
        for number in (4, 5):
            with pytest.raises(SlideError, match="across"):
                read(slide, number)
        for number in (3, 6):
            assert (read(slide, number) == truth(number)).all()
