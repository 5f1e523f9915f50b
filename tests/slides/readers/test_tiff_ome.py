"""What OME's XML says of the images of a file."""

from types import SimpleNamespace

import pytest

from slidemill.slides.readers.base import UnsupportedError
from slidemill.slides.readers.tiff_ome import check_channels, ome_images


def file(images, samples=3, pages=9, uuid=""):
    class Pages(list):
        first = SimpleNamespace(
            description=f'<OME xmlns="x"{uuid}><Instrument><Objective ID="O:0" '
            f'NominalMagnification="20"/><Objective ID="O:1" NominalMagnification="40"/>'
            f"</Instrument>{images}</OME>",
            samplesperpixel=samples,
        )

    return SimpleNamespace(pages=Pages(range(pages)))


def image(name="a", data='<TiffData IFD="0"/>', size_c=3, samples=3, objective=""):
    return (
        f'<Image Name="{name}">{objective}<Pixels SizeC="{size_c}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="0.5"><Channel SamplesPerPixel="{samples}"/>{data}</Pixels></Image>'
    )


def test_images_with_their_directories_and_metadata():
    found = ome_images(
        file(
            image("a", '<TiffData IFD="2"/>', objective='<ObjectiveSettings ID="O:1"/>')
            + image("b", '<TiffData IFD="5"/>')
        )
    )
    assert [(one.name, one.first, one.planes, one.channels) for one in found] == [
        ("a", 2, 1, 1),
        ("b", 5, 1, 1),
    ]
    assert found[0].properties == {
        "ome.PhysicalSizeX": "0.5",
        "openslide.objective-power": "40",
    }
    assert "openslide.objective-power" not in found[1].properties  # whose is it?
    assert ome_images(file(image()))[0].properties["openslide.objective-power"] == "20"


def test_images_without_directories_follow_each_other():
    found = ome_images(file(image("a", "", samples=1) + image("b", "", samples=1), samples=1))
    assert [(one.first, one.planes, one.channels) for one in found] == [(0, 3, 3), (3, 3, 3)]


def test_images_of_other_files_are_not_here():
    def data(uuid):
        return f'<TiffData IFD="0"><UUID FileName="other.tif">{uuid}</UUID></TiffData>'

    found = ome_images(file(image("a", data("u:1")) + image("b", data("u:2")), uuid=' UUID="u:2"'))
    assert [one.name for one in found] == ["b"]


def test_channels_that_are_no_colours_are_refused():
    (found,) = ome_images(file(image(size_c=4, samples=1), samples=1))
    with pytest.raises(UnsupportedError, match="4 channels"):
        check_channels(found, 9)
    (found,) = ome_images(file(image(size_c=3, samples=1), samples=1))
    check_channels(found, 9)
    with pytest.raises(UnsupportedError):
        check_channels(found, 2)


def test_xml_that_does_not_parse_leaves_the_first_directory():
    (found,) = ome_images(file('<Image Name="a"><Pixels SizeC="4">', samples=1))
    assert (found.first, found.channels) == (0, 4)
