from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from broken_pictures import png_of_size
from regard._errors import DataError
from regard.data import pictures
from regard.data.pictures import load_picture, picture_name, picture_size

PLACE = "x.jsonl, line 3"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(6, 9, 3), dtype=np.uint8)


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def test_a_file_an_array_and_an_image_are_the_same_picture(tmp_path):
    image = Image.fromarray(PIXELS)
    path = saved(tmp_path, image)
    np.savez(tmp_path / "rows.npz", images=np.stack([np.zeros_like(PIXELS), PIXELS]))
    row = f"{tmp_path / 'rows.npz'}#1"
    content = (tmp_path / "a.png").read_bytes()
    sent = (content, bytearray(content), memoryview(content), io.BytesIO(content))
    for given in (path, tmp_path / "a.png", PIXELS, image, row, *sent):
        np.testing.assert_array_equal(load_picture(given, PLACE, 64).pixels, PIXELS)
    with (tmp_path / "a.png").open("rb") as file:
        file.read()
        np.testing.assert_array_equal(load_picture(file, PLACE, 64).pixels, PIXELS)
        assert not file.closed
    for given in (path, PIXELS, row):
        assert picture_size(given, PLACE) == (6, 9)
    assert load_picture(path, PLACE, 64).name == path
    assert load_picture(row, PLACE, 64).name == row
    again = load_picture(load_picture(path, PLACE, 64), PLACE, 64)
    assert again.name == path


@pytest.mark.parametrize("kind", ["array", "row"])
def test_pixels_are_kept_when_the_array_changes(tmp_path, kind):
    array = PIXELS.copy()
    np.savez(tmp_path / "rows.npz", images=array[None])
    given = array if kind == "array" else f"{tmp_path / 'rows.npz'}#0"
    found = load_picture(given, PLACE, 64).pixels
    array[:] = 0
    load_picture(given, PLACE, 64).pixels[:] = 0
    np.testing.assert_array_equal(found, PIXELS)
    assert found.base is None


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_gray_is_a_color(shape):
    gray = RNG.integers(256, size=shape, dtype=np.uint8)
    found = load_picture(gray, PLACE, 64).pixels
    np.testing.assert_array_equal(found, np.broadcast_to(gray.reshape(4, 5, 1), (4, 5, 3)))


def test_transparent_becomes_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    found = load_picture(saved(tmp_path, Image.fromarray(pixels)), PLACE, 64).pixels
    assert found[0, 0].tolist() == [10, 20, 30]
    assert (found.reshape(-1, 3)[1:] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "RGBA"])
def test_every_mode_becomes_red_green_and_blue(tmp_path, mode):
    image = Image.new("RGB", (5, 4), "white").convert(mode)
    found = load_picture(image, PLACE, 64).pixels
    assert found.shape == (4, 5, 3)
    assert (found > 250).all()


def test_sixteen_bits_keep_their_shades(tmp_path):
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(wide))
    assert load_picture(path, PLACE, 64).pixels[0, :, 0].tolist() == [0, 1, 127, 255]


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.fromarray(np.full((8, 16, 3), 255, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = saved(tmp_path, image, "a.jpg", exif=exif)
    assert load_picture(path, PLACE, 64).pixels.shape == (16, 8, 3)
    assert load_picture(Image.open(path), PLACE, 64).pixels.shape == (16, 8, 3)


def test_large_pictures_are_scaled_to_a_side_and_small_ones_kept():
    large = np.full((100, 50, 3), 7, np.uint8)
    assert load_picture(large, PLACE, 40).pixels.shape == (40, 20, 3)
    assert (load_picture(large, PLACE, 40).pixels == 7).all()
    assert load_picture(np.zeros((300, 1, 3), np.uint8), PLACE, 30).pixels.shape == (30, 1, 3)
    assert load_picture(large, PLACE, 100).pixels.shape == (100, 50, 3)


def test_pictures_are_equal_by_name_and_pixels(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    assert load_picture(red, PLACE, 8) == load_picture(red.copy(), PLACE, 8)
    assert len({load_picture(red, PLACE, 8), load_picture(blue, PLACE, 8)}) == 2
    assert load_picture(red, PLACE, 8) != load_picture(saved(tmp_path, red), PLACE, 8)


def test_names_are_whole_paths(tmp_path):
    rows = tmp_path / "train.npz"
    assert picture_name("a/b.png", PLACE, tmp_path, rows) == str(tmp_path / "a" / "b.png")
    assert picture_name(17, PLACE, tmp_path, rows) == f"{rows}#17"
    assert picture_name("other.npz#3", PLACE, tmp_path, rows) == f"{tmp_path / 'other.npz'}#3"


@pytest.mark.parametrize("given", [None, True, 1.5, "", " ", [1], {"a": 1}, "a\0b"])
def test_what_names_no_picture(given, tmp_path):
    with pytest.raises(DataError, match=r"x\.jsonl, line 3: the picture is neither a path nor a row number"):
        picture_name(given, PLACE, tmp_path, tmp_path / "x.npz")


def test_a_file_that_is_not_there(tmp_path):
    saved(tmp_path, Image.fromarray(PIXELS), "dog.png")
    for look in (picture_size, lambda given, place: load_picture(given, place, 64)):
        with pytest.raises(DataError, match=r"line 3: there is no picture .*did you mean 'dog.png'"):
            look(str(tmp_path / "dig.png"), PLACE)
        with pytest.raises(DataError, match="there is no picture"):
            look(str(tmp_path), PLACE)


def test_what_is_no_picture(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no picture at all", encoding="utf8")
    with pytest.raises(DataError, match=r"line 3: .* is no picture that can be read.*PNG, JPEG"):
        picture_size(str(path), PLACE)
    with pytest.raises(DataError, match="floating-point"):
        load_picture(Image.new("F", (3, 3)), PLACE, 64)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp"])
def test_a_picture_that_is_cut_short(tmp_path, ending):
    buffer = io.BytesIO()
    kinds = {"jpg": "JPEG"}
    Image.fromarray(RNG.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(
        buffer, kinds.get(ending, ending.upper())
    )
    path = tmp_path / f"a.{ending}"
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    path.write_bytes(half)
    for given in (str(path), half, io.BytesIO(half)):
        with pytest.raises(DataError, match="is no picture that can be read"):
            load_picture(given, PLACE, 64)
    if ending not in {"gif", "webp"}:  # whose head Pillow does not open then
        with Image.open(path) as image, pytest.raises(DataError, match=r"line 3: a picture is no picture"):
            load_picture(image, PLACE, 64)


def closed(content):
    image = Image.open(io.BytesIO(content))
    image.close()
    return image


def closed_behind(content):
    with Image.open(io.BytesIO(content)) as image:
        return image


def closed_below(content):
    with io.BytesIO(content) as file:
        return Image.open(file)


@pytest.mark.parametrize("way", [closed, closed_behind, closed_below])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_that_is_closed(way, form):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form)
    with pytest.raises(DataError, match=r"is no picture that can be read.*closed"):
        load_picture(way(buffer.getvalue()), PLACE, 64)


@pytest.mark.parametrize("given", [b"", b"no picture", io.StringIO("text"), io.BytesIO()])
def test_bytes_that_are_no_picture(given):
    with pytest.raises(
        DataError, match=r"line 3: a picture is no picture that can be read\. Expected: a PNG"
    ):
        load_picture(given, PLACE, 64)


@pytest.mark.parametrize("size", [(8_000, 8_000), (60_000, 60_000)])
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(*size))
    for look in (picture_size, lambda given, place: load_picture(given, place, 64)):
        with pytest.raises(
            DataError, match=r"line 3: the picture is too large\. Expected: at most 50,000,000 pixels"
        ):
            look(str(path), PLACE)
    with pytest.raises(DataError, match="the picture is too large"):
        load_picture(path.read_bytes(), PLACE, 64)


@pytest.mark.parametrize("given", [5, None, [1], {"a": 1}])
def test_what_is_no_picture_at_all(given):
    with pytest.raises(
        DataError, match=r"this is no picture\. Expected: the path of a file, its bytes, an open file"
    ):
        load_picture(given, PLACE, 64)


@pytest.mark.parametrize(
    "given",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)],
)  # fmt: skip
def test_arrays_that_are_no_pictures(given):
    with pytest.raises(DataError, match="this array is no picture"):
        load_picture(given, PLACE, 64)
    with pytest.raises(DataError, match=r"0 x 4 pixels|4 x 0 pixels"):
        load_picture(np.zeros((0, 4, 3), np.uint8), PLACE, 64)


def test_a_row_outside_the_array(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS[None])
    with pytest.raises(
        DataError, match=r"line 3: the picture is outside the array 'images'.*from 0 to 0.*Received: 1"
    ):
        picture_size(f"{tmp_path / 'a.npz'}#1", PLACE)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"other": PIXELS[None]}, "images"), ({"images": PIXELS[0, 0]}, "shape"), ({"images": np.array([None])}, "cannot be read")],
)  # fmt: skip
def test_files_of_arrays_that_cannot_be_used(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        picture_size(f"{tmp_path / 'a.npz'}#0", PLACE)
    (tmp_path / "b.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read"):
        picture_size(f"{tmp_path / 'b.npz'}#0", PLACE)
    with pytest.raises(DataError, match="is not there"):
        picture_size(f"{tmp_path / 'c.npz'}#0", PLACE)


def archive(path, shape, size):
    """An `.npz` whose array claims a shape and holds zeros."""
    head = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", head.getvalue() + bytes(size))
    return f"{path}#0"


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((10**6, 10**4, 10**4, 3), 0, r"pictures of 10,000 x 10,000 pixels, more than 50,000,000"),
        ((10**9, 10**3, 10**3, 3), 0, r"0 bytes for uint8 of shape \(1000000000,"),
        ((1, 10, 10, 3), 10**6, r"1,000,000 bytes for uint8 of shape \(1, 10, 10, 3\)"),
        ((10**4, 10, 10), 10**6, r"1,000,000 bytes of pictures, more than 999,999"),
        ((-1, -10, 10), 100, r"uint8 of shape \(-1, -10, 10\)"),
    ],
)
def test_a_small_file_of_a_huge_array_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch, shape, size, message
):
    monkeypatch.setattr(pictures, "MAX_BYTES", 999_999)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match=rf"line 3: the file of pictures .* cannot be read.*{message}"):
        picture_size(archive(tmp_path / "bomb.npz", shape, size), PLACE)


def test_an_array_that_memory_cannot_hold_is_refused(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("no room for 4 GiB")

    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(DataError, match=r"cannot be read.*no room for 4 GiB"):
        picture_size(archive(tmp_path / "a.npz", (1, 2, 2), 4), PLACE)


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=PIXELS[None])
    assert picture_size(f"{path}#0", PLACE) == (6, 9)
    np.savez(path, images=np.zeros((2, 3, 3), np.uint8))
    assert picture_size(f"{path}#1", PLACE) == (3, 3)
    assert pictures._images.cache_info().maxsize == 1
