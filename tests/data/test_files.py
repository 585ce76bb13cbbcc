"""Image files: formats, shapes and modes, decoded once or each time, damage named."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eaves.core.roles import PrivateLabels
from eaves.data import files
from eaves.data.files import Files, Images, Listing, dataset_of_files, read_image
from eaves.data.source import Request
from eaves.errors import ConfigError, DataError


def _saved(path: Path, *, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> Path:
    """A gradient from black to white, from left to right."""
    ramp = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))
    Image.fromarray(ramp).convert(mode).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "webp"])
def test_each_format_decodes_to_its_centred_square(tmp_path: Path, suffix: str) -> None:
    image_HWC = read_image(_saved(tmp_path / f"a.{suffix}"), 8)
    assert (image_HWC.shape, image_HWC.dtype.name) == ((8, 8, 3), "uint8")
    expected = np.linspace(0, 255, 12)[2:10]
    assert np.abs(image_HWC.astype(int) - expected[None, :, None]).max() <= 12  # lossy formats


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image_HWC = read_image(_saved(tmp_path / "a.png", mode=mode), 8)
    assert image_HWC.shape == (8, 8, 3)
    assert (image_HWC[..., 0] == image_HWC[..., 1]).all()
    assert image_HWC[:, -1].mean() > image_HWC[:, 0].mean()


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "a.png", transparency=bytes([0] * 256))
    assert read_image(tmp_path / "a.png", 4)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB key", "L key", "webp", "tif", "gif"])
def test_colours_under_what_is_transparent_do_not_become_input(tmp_path: Path, kind: str) -> None:
    """Two files that look the same are the same input: white where nothing is to be seen."""
    found = []
    for i, hidden in enumerate((10, 200)):
        image = Image.new("RGBA", (16, 16), (hidden, hidden, hidden, 0))
        image.paste((0, 0, 0, 255), (0, 0, 8, 16))
        path, options = tmp_path / f"{i}.{kind if kind.islower() else 'png'}", {}
        if kind == "LA":
            image = image.convert("LA")
        elif kind == "P":
            image = image.convert("RGB").quantize(4)
            options = {"transparency": int(image.getpixel((15, 15)))}  # type: ignore[arg-type]
        elif kind.endswith("key"):
            image = image.convert(kind.split()[0])
            options = {"transparency": image.getpixel((15, 15))}  # type: ignore[dict-item]
        elif kind == "webp":
            options = {"lossless": True, "exact": True}
        image.save(path, **options)  # type: ignore[arg-type]
        found.append(read_image(path, 16))
    assert (found[0] == found[1]).all()
    assert (found[0][:, :8] == 0).all()
    assert (found[0][:, 8:] == 255).all()


def test_what_is_half_transparent_is_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 100, 200, 51)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 4)[0, 0].tolist() == [204, 224, 244]


def test_hidden_colours_stay_out_where_the_image_is_resized(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 31, 64))
    image.save(tmp_path / "a.png")
    image_HWC = read_image(tmp_path / "a.png", 8)
    assert (image_HWC[..., 0] == image_HWC[..., 1]).all()  # grey: no red anywhere


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_frames_are_refused_not_cut_to_the_first(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (4, 4), (i, 0, 0)) for i in (0, 255))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    with pytest.raises(DataError, match=rf"a.{suffix}: expected one picture, found 2 frames"):
        read_image(tmp_path / f"a.{suffix}", 4)


def test_a_photograph_with_a_second_view_is_read(tmp_path: Path) -> None:
    views = [Image.new("RGB", (8, 8), (value, value, value)) for value in (40, 200)]
    views[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views[1:])
    assert abs(int(read_image(tmp_path / "a.jpg", 8).mean()) - 40) <= 2


def test_cmyk_becomes_rgb_and_other_depths_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg", 8)[0, 0].tolist()
    assert (red > 200, green < 60, blue < 60) == (True, True, True)
    for dtype in (np.uint16, np.int32, np.float32):
        Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "b.tif")
        with pytest.raises(DataError, match=r"b.tif: expected 8 bits per channel"):
            read_image(tmp_path / "b.tif", 4)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.open(_saved(tmp_path / "a.png", size=(8, 8))).save(tmp_path / "b.png", exif=exif)
    straight, turned = read_image(tmp_path / "a.png", 8), read_image(tmp_path / "b.png", 8)
    assert (turned == straight[::-1, ::-1]).all()


def test_damage_of_any_kind_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    whole = _saved(tmp_path / "a.jpg", size=(64, 64)).read_bytes()
    for data in (b"", b"GIF", whole[:200], whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" + whole):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"cannot read the image .*broken.jpg: .*replace"):
            read_image(path, 8)
    with pytest.raises(DataError, match=r"gone.png: .*No such file"):
        read_image(tmp_path / "gone.png", 8)


def test_sixteen_bits_are_refused_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="expected 8 bits per channel, found Pillow's mode 'I;16'"):
        read_image(tmp_path / "x.png", 4)


def test_an_image_of_absurd_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # a bomb beyond twice of it
    with pytest.raises(DataError, match="exceeds limit"):
        read_image(_saved(tmp_path / "a.png"), 8)


def test_a_broken_file_is_reported_from_the_pool(tmp_path: Path) -> None:
    paths = [_saved(tmp_path / f"{i}.png") for i in range(20)]
    paths[11].write_bytes(b"no image")
    source = Files(paths, torch.arange(20), decoder=Images(8), keep=True)
    with pytest.raises(DataError, match=r"11.png"):
        source.fetch(torch.arange(20))
    assert source.fetch(torch.arange(10)).labels.tolist() == list(range(10))


@pytest.mark.parametrize("keep", [True, False])
def test_kept_images_are_decoded_once(tmp_path: Path, keep: bool) -> None:
    paths = [_saved(tmp_path / f"{i}.png") for i in range(3)]
    source = Files(paths, torch.arange(3), decoder=Images(8), keep=keep)
    first = source.fetch(torch.tensor([2, 0, 2])).inputs
    paths[0].unlink()
    if keep:
        assert torch.equal(source.fetch(torch.tensor([2, 0, 2])).inputs, first)
        assert source.fetch(torch.tensor([1, 0])).inputs.shape == (2, 3, 8, 8)
    else:
        with pytest.raises(DataError, match=r"0.png"):
            source.fetch(torch.tensor([0]))


def test_a_set_beyond_the_limit_stays_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_saved(tmp_path / f"{i}.png") for i in range(4)]
    listings = {
        "train": Listing(paths[:2], torch.tensor([0, 1])),
        "test": Listing(paths[2:], torch.tensor([0, 1])),
    }

    def reads_the_disk_again() -> bool:
        request = Request(image_size=8)
        data = dataset_of_files("x", ("a", "b"), listings, request, private_classes={})
        data.test.fetch(torch.tensor([0]))
        paths[2].rename(tmp_path / "hidden")
        try:
            data.test.fetch(torch.tensor([0]))
        except DataError:
            return True
        finally:
            (tmp_path / "hidden").rename(paths[2])
        return False

    monkeypatch.setattr(files, "MEMORY_LIMIT_BYTES", 4 * 3 * 8 * 8)
    assert not reads_the_disk_again()
    monkeypatch.setattr(files, "MEMORY_LIMIT_BYTES", 4 * 3 * 8 * 8 - 1)
    assert reads_the_disk_again()


def test_paths_and_labels_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as many int64 labels, got 1 paths"):
        Files([tmp_path / "a.png"], torch.arange(2), decoder=Images(8), keep=False)
    private = PrivateLabels(torch.zeros(3, 1, dtype=torch.int64), ("tail",))
    with pytest.raises(ValueError, match="expected 1 private labels, got 3"):
        Files([tmp_path / "a.png"], torch.arange(1), private, decoder=Images(8), keep=False)


def test_a_choice_of_files_takes_all_that_is_known_of_each(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    private = PrivateLabels(torch.tensor([[7], [8], [9]]), ("tail",))
    chosen = Listing(paths, torch.arange(3), private).take(torch.tensor([2, 0]))
    assert chosen.paths == [paths[2], paths[0]]
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.private is not None
    assert chosen.private.of("tail").tolist() == [9, 7]


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r'pip install "eaves\[lab\]"'):
        Files([tmp_path / "a.png"], torch.arange(1), decoder=Images(8), keep=False)
