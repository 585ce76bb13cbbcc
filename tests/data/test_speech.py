"""Spoken digits and words, in their layouts: who said what, in which part, read when.

The recordings here are tones: of a digit or word the pitch, of a speaker the loudness.

Dimension key:  N recordings
"""

import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eaves.data import files, folders, speech
from eaves.data.load import interface_of, load_dataset
from eaves.data.source import Request, Source
from eaves.data.speech import held_out, load_spoken_digits, load_spoken_words
from eaves.errors import ConfigError, DataError

_SPEAKERS = {"theo": 0.3, "anna": 0.03, "lucas": 0.003}  # not in the order of their names
_WORDS = {"yes": 500, "no": 1_000, "stop": 2_000}
# From the validation_list.txt and the README of Speech Commands itself: a tenth of all speakers.
_OFFICIALLY_HELD_OUT = (
    *("439c84f4", "a6d586b7", "7fd25f7c", "471a0925", "bdee441c", "a69b9b3e", "0e17f595"),
    *("ff2b842e", "3cc595de", "591d32f3", "52bfbce8", "dbaf8fc6", "409c962a", "6c88cf25"),
)


def _record(path: Path, hz: float, amplitude: float, *, rate_hz: int, s: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(round(s * rate_hz)) / rate_hz
    samples = amplitude * np.sin(2 * np.pi * hz * seconds) * 32_767
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def _digits(root: Path, *, numbers: Iterable[int] = (0, 4, 5, 10)) -> Path:
    """Ten digits by three speakers; the digit is heard at 300 Hz and every 300 above."""
    folder = root / "free-spoken-digit-dataset" / "recordings"
    for digit in range(10):
        for speaker, amplitude in _SPEAKERS.items():
            for number in numbers:
                path = folder / f"{digit}_{speaker}_{number}.wav"
                _record(path, 300 * (digit + 1), amplitude, rate_hz=8_000)
    return folder


def _words(folder: Path, speakers: Iterable[str], *, words: Iterable[str] = _WORDS) -> None:
    for word in words:
        for speaker in speakers:
            _record(folder / word / f"{speaker}_nohash_0.wav", _WORDS[word], 0.1, rate_hz=16_000)


def _lists(folder: Path, *, valid: Iterable[str], test: Iterable[str]) -> None:
    for name, speakers in (("validation_list.txt", valid), ("testing_list.txt", test)):
        rows = [f"{word}/{speaker}_nohash_0.wav" for speaker in speakers for word in _WORDS]
        (folder / name).write_text("".join(f"{row}\n" for row in rows))


def _heard(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """The labels, the loudest band of each recording (N,), and how loud it is (N,)."""
    batch = source.fetch(torch.arange(len(source)))
    assert batch.inputs.shape[1:] == (1, 40, 100)
    in_bands = batch.inputs[:, 0, :, 40:60].float().mean(dim=2)
    return batch.labels, in_bands.argmax(dim=1), in_bands.amax(dim=1)


def test_the_digits_are_heard_where_their_labels_say(tmp_path: Path) -> None:
    _digits(tmp_path)
    data = load_spoken_digits(Request(root=tmp_path))
    assert (data.name, data.classes, data.augment) == (
        "spoken-digits",
        tuple("0123456789"),
        "shift",
    )
    assert (len(data.train), len(data.test), data.valid) == (60, 60, None)
    bands = []
    for source in (data.train, data.test):
        labels_N, bands_N, _ = _heard(source)
        for digit in range(10):
            (band,) = set(bands_N[labels_N == digit].tolist())
            bands.append(band)
    assert bands[:10] == bands[10:] == sorted(set(bands))


def test_recordings_are_divided_by_their_number_as_published(tmp_path: Path) -> None:
    folder = _digits(tmp_path, numbers=(0, 5))
    for number in (1, 2, 3, 4):
        _record(folder / f"7_theo_{number}.wav", 500, 0.1, rate_hz=8_000)
    for number in (6, 49, 123):
        _record(folder / f"8_theo_{number}.wav", 500, 0.1, rate_hz=8_000)
    data = load_spoken_digits(Request(root=tmp_path))
    test, train = (torch.bincount(_heard(source)[0]) for source in (data.test, data.train))
    assert test.tolist() == [3, 3, 3, 3, 3, 3, 3, 7, 3, 3]
    assert train.tolist() == [3, 3, 3, 3, 3, 3, 3, 3, 6, 3]


def test_the_order_is_not_that_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _digits(tmp_path)
    data = load_spoken_digits(Request(root=tmp_path))
    original = folders.entries
    monkeypatch.setattr(speech, "entries", lambda folder: original(folder)[::-1])
    again = load_spoken_digits(Request(root=tmp_path))
    for source, same in ((data.train, again.train), (data.test, again.test)):
        batch, other = (s.fetch(torch.arange(60)) for s in (source, same))
        assert torch.equal(batch.inputs, other.inputs)
        assert batch.labels.tolist() == sorted(batch.labels.tolist())


def test_the_speaker_may_be_the_task(tmp_path: Path) -> None:
    _digits(tmp_path)
    data = load_spoken_digits(Request(root=tmp_path, option="Speaker", private=("digit",)))
    assert (data.name, data.classes) == ("spoken-digits:speaker", ("anna", "lucas", "theo"))
    assert data.private_classes == {"digit": tuple("0123456789")}
    labels_N, _, loudness_N = _heard(data.test)
    loudest = [float(loudness_N[labels_N == speaker].mean()) for speaker in range(3)]
    assert loudest[2] > loudest[0] + 40 > loudest[1] + 80  # theo, anna, lucas: 20 dB apart


def test_the_speaker_may_be_private_and_changes_nothing_else(tmp_path: Path) -> None:
    _digits(tmp_path)
    plain = load_spoken_digits(Request(root=tmp_path, train_samples=40))
    data = load_spoken_digits(Request(root=tmp_path, train_samples=40, private=("speaker",)))
    assert data.private_classes == {"speaker": ("anna", "lucas", "theo")}
    assert data.interface == plain.interface
    for source, same in ((data.train, plain.train), (data.test, plain.test)):
        batch, other = (s.fetch(torch.arange(len(s))) for s in (source, same))
        assert torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.labels, other.labels)
        assert batch.private is not None
        _, _, loudness_N = _heard(source)
        speakers_N = batch.private.of("speaker")
        quietest = [float(loudness_N[speakers_N == speaker].max()) for speaker in range(3)]
        assert quietest[2] > quietest[0] + 40 > quietest[1] + 80


def test_a_speaker_who_speaks_alone_cannot_be_private(tmp_path: Path) -> None:
    _digits(tmp_path, numbers=(0, 5))
    with pytest.raises(ConfigError, match="speaker is the same on all 1 training examples"):
        load_spoken_digits(Request(root=tmp_path, train_samples=1, private=("speaker",)))


@pytest.mark.parametrize(
    ("option", "private", "message"),
    [
        ("", ("digit",), "the private attribute is the task itself: digit"),
        ("speaker", ("speaker",), "the private attribute is the task itself: speaker"),
        ("", ("accent",), "unknown private attribute 'accent'; choose from: "),
        ("accent", (), "unknown task of the spoken digits 'accent'; choose from: "),
    ],
)
def test_a_task_or_attribute_that_does_not_fit_is_refused(
    tmp_path: Path, option: str, private: tuple[str, ...], message: str
) -> None:
    _digits(tmp_path, numbers=(0, 5))
    with pytest.raises(ConfigError, match=message):
        load_spoken_digits(Request(root=tmp_path, option=option, private=private))


def test_a_net_for_the_digits_is_known_without_them_and_one_for_the_speakers_is_not() -> None:
    known = interface_of("spoken-digits")
    assert (known.input_shape, known.classes) == ((1, 40, 100), tuple("0123456789"))
    assert interface_of("spoken-digits:digit") == known
    for name in ("spoken-digits:speaker", "spoken-words"):
        with pytest.raises(ConfigError, match="make a bundle there"):
            interface_of(name)


@pytest.mark.parametrize(
    "name", ["seven_theo_0.wav", "7_theo.wav", "7_theo_x.wav", "7__0.wav", "17_theo_0.wav"]
)
def test_a_digit_with_another_name_is_named(tmp_path: Path, name: str) -> None:
    _record(_digits(tmp_path, numbers=(0, 5)) / name, 500, 0.1, rate_hz=8_000)
    with pytest.raises(DataError, match=rf"{name}: expected a name such as 7_jackson_32.wav"):
        load_spoken_digits(Request(root=tmp_path))


def test_other_files_beside_the_digits_are_passed_over(tmp_path: Path) -> None:
    folder = _digits(tmp_path, numbers=(0, 5))
    (folder / "notes.txt").write_text("hello")
    (folder / "._0_theo_0.wav").write_text("left by another system")
    assert len(load_spoken_digits(Request(root=tmp_path)).train) == 30


def test_a_digit_or_speaker_without_recordings_is_named(tmp_path: Path) -> None:
    folder = _digits(tmp_path, numbers=(0, 5))
    for speaker in _SPEAKERS:
        (folder / f"3_{speaker}_0.wav").unlink()
    with pytest.raises(DataError, match="the part to test, found none of 3; add some"):
        load_spoken_digits(Request(root=tmp_path))
    for digit in range(10):
        (folder / f"{digit}_theo_5.wav").unlink()
    with pytest.raises(DataError, match="the part to train, found none of theo; add some"):
        load_spoken_digits(Request(root=tmp_path, option="speaker"))


def test_missing_and_damaged_digits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*recordings; fetch .* from https://github"):
        load_spoken_digits(Request(root=tmp_path))
    folder = _digits(tmp_path, numbers=(0, 5))
    whole = (folder / "4_anna_5.wav").read_bytes()
    (folder / "4_anna_5.wav").write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"4_anna_5.wav: it is cut off"):
        load_spoken_digits(Request(root=tmp_path))


@pytest.mark.parametrize("name", ["spoken-digits", "spoken-words"])
def test_recordings_are_neither_resized_nor_downloaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="become images of 40 x 100, got image_size=64"):
        load_dataset(name, root=tmp_path, image_size=64)
    with pytest.raises(ConfigError, match=f"{name} cannot be downloaded .*source: .*http"):
        load_dataset(name, root=tmp_path, download=True)


def test_the_words_are_divided_as_their_lists_say(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb", "cc", "dd"])
    _lists(folder, valid=["bb"], test=["cc", "not-there"])
    _record(folder / "_background_noise_" / "hiss.wav", 100, 0.1, rate_hz=16_000)
    data = load_spoken_words(Request(root=tmp_path))
    assert (data.name, data.classes, data.augment) == (
        "spoken-words",
        ("no", "stop", "yes"),
        "shift",
    )
    assert data.valid is not None
    assert [len(source) for source in (data.train, data.valid, data.test)] == [6, 3, 3]
    for source in (data.train, data.valid, data.test):
        labels_N, bands_N, _ = _heard(source)
        assert sorted(set(labels_N.tolist())) == [0, 1, 2]
        order = bands_N[[int((labels_N == word).nonzero()[0]) for word in (2, 0, 1)]]
        assert order.tolist() == sorted(set(bands_N.tolist()))  # yes, no, stop: by pitch


def test_without_lists_a_fifth_of_the_speakers_is_held_out(tmp_path: Path) -> None:
    speakers = [f"speaker{i}" for i in range(12)]
    _words(tmp_path / "mine", speakers)
    data = load_spoken_words(Request(root=tmp_path, option="mine"))
    held = sum(map(held_out, speakers))
    assert 0 < held < 12
    assert (data.name, data.valid) == ("spoken-words:mine", None)
    assert (len(data.train), len(data.test)) == (3 * (12 - held), 3 * held)


def test_the_hash_is_that_of_the_set_and_takes_a_fifth() -> None:
    assert all(map(held_out, _OFFICIALLY_HELD_OUT))
    share = sum(held_out(f"{i:08x}") for i in range(10_000)) / 10_000
    assert abs(share - 0.2) < 0.016  # four standard deviations; fixed names, so it always holds


def test_words_are_read_when_they_are_asked_for_and_once(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb"])
    _lists(folder, valid=[], test=["bb"])
    (folder / "no" / "bb_nohash_0.wav").write_bytes(b"no sound")
    data = load_spoken_words(Request(root=tmp_path))  # reads those to train on, for their mean
    kept = data.train.fetch(torch.arange(3)).inputs
    for path in folder.glob("*/aa_*.wav"):
        path.unlink()
    assert torch.equal(data.train.fetch(torch.arange(3)).inputs, kept)
    assert data.test.fetch(torch.tensor([1, 2])).labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"no.bb_nohash_0.wav: expected it to begin with RIFF"):
        data.test.fetch(torch.tensor([0]))


def test_words_beyond_the_memory_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb"])
    _lists(folder, valid=[], test=["bb"])
    monkeypatch.setattr(files, "MEMORY_LIMIT_BYTES", 6 * 4_000 - 1)
    data = load_spoken_words(Request(root=tmp_path))
    (folder / "no" / "aa_nohash_0.wav").unlink()
    with pytest.raises(DataError, match=r"aa_nohash_0.wav: No such file"):
        data.train.fetch(torch.tensor([0]))


def test_recordings_of_any_length_and_rate_become_the_second_in_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    for path, rate_hz, s in zip(paths, (8_000, 44_100, 8_000, 8_000), (1, 1, 0.2, 3), strict=True):
        _record(path, 1_000, 0.1, rate_hz=rate_hz, s=s)
    decoder = speech.Recordings(8_000)
    images = decoder.decode(paths)[:, 0]
    assert images.shape == (4, 40, 100)
    middle = images[:, :, 45:55].int()
    band = int(middle[0].sum(dim=1).argmax())
    assert (middle[:, band] - middle[0, band]).abs().max() <= 2
    assert not images[2, :, :35].any()
    assert not images[2, :, 65:].any()
    assert images[3, band].min() > 150
    monkeypatch.setattr(speech, "_AT_ONCE", 1)
    assert (decoder.decode(paths)[:, 0].int() - images.int()).abs().max() <= 1


def test_columns_of_a_table_may_be_private(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb", "cc"])
    _lists(folder, valid=[], test=["bb"])
    rows = [f"{w}/{s}_nohash_0.wav,{int(s == 'cc')}" for w in _WORDS for s in ("aa", "bb", "cc")]
    (folder / "attributes.csv").write_text("\n".join(["path,accent", *rows]))
    data = load_dataset("spoken-words", root=tmp_path, private=("accent",))
    assert data.private_classes == {"accent": ("0", "1")}
    batch = data.train.fetch(torch.arange(6))
    assert batch.private is not None
    assert batch.private.of("accent").tolist() == [0, 1] * 3


def test_fewer_than_two_words_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa"], words=["yes"])
    _record(folder / "_background_noise_" / "hiss.wav", 100, 0.1, rate_hz=16_000)
    with pytest.raises(ConfigError, match=r"two or more folders of recordings .* found yes"):
        load_spoken_words(Request(root=tmp_path))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected files that end in .wav, .* nothing"):
        load_spoken_words(Request(root=tmp_path))


def test_recordings_of_another_kind_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb", "cc"])
    _lists(folder, valid=[], test=["bb", "gone"])
    word = sorted(p for p in folder.iterdir() if p.is_dir())[0]
    (word / "more.flac").write_bytes(b"fLaC")
    first, second = load_spoken_words(Request(root=tmp_path)).notices
    assert first == f"{word}: not read: 1 file (1 .flac), the first of them 'more.flac'"
    assert "recordings in validation_list.txt and testing_list.txt are not there" in second
    assert "gone_nohash_0.wav'" in second
    (folder / "sung").mkdir()
    (folder / "sung" / "a.mp3").write_bytes(b"ID3")
    with pytest.raises(DataError, match=r"sung: expected files that end in .wav.*1 .mp3"):
        load_spoken_words(Request(root=tmp_path))


def test_long_recordings_are_counted_and_the_longest_named(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb", "cc"])
    _lists(folder, valid=[], test=["bb"])
    word = sorted(p for p in folder.iterdir() if p.is_dir())[0]
    _record(word / "dd_nohash_0.wav", 100, 0.1, rate_hz=16_000, s=2.5)
    (notice,) = load_spoken_words(Request(root=tmp_path)).notices
    assert notice.startswith("1 of the ")
    assert f"the longest is {word / 'dd_nohash_0.wav'} with 2.5 s" in notice


def test_what_lies_beside_spoken_digits_is_named(tmp_path: Path) -> None:
    folder = _digits(tmp_path)
    assert load_spoken_digits(Request(root=tmp_path)).notices == ()
    (folder / "0_ann_7.flac").write_bytes(b"fLaC")
    (folder / "old").mkdir()
    (notice,) = load_spoken_digits(Request(root=tmp_path)).notices
    assert "not read: 1 file (1 .flac), the first of them '0_ann_7.flac'; 1 folder" in notice


def test_missing_words_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*speech_commands"):
        load_spoken_words(Request(root=tmp_path))
    with pytest.raises(ConfigError, match="under the data root after 'spoken-words:'"):
        load_spoken_words(Request(root=tmp_path, option="../elsewhere"))


def test_a_word_with_another_name_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb"])
    _record(folder / "yes" / "aa.wav", 500, 0.1, rate_hz=16_000)
    with pytest.raises(DataError, match=r"yes.aa.wav: expected a name such as 439c84f4_nohash_0"):
        load_spoken_words(Request(root=tmp_path))


def test_a_word_without_recordings_to_test_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb"])
    _lists(folder, valid=[], test=["bb"])
    (folder / "stop" / "bb_nohash_0.wav").unlink()
    with pytest.raises(DataError, match="the part to test, found none of stop"):
        load_spoken_words(Request(root=tmp_path))


def test_lists_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "speech_commands"
    _words(folder, ["aa", "bb"])
    _lists(folder, valid=["bb"], test=["bb"])
    with pytest.raises(DataError, match=r"no recording in both .* found no/bb_nohash_0.wav"):
        load_spoken_words(Request(root=tmp_path))
    (folder / "testing_list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*testing_list.txt"):
        load_spoken_words(Request(root=tmp_path))
    (folder / "testing_list.txt").unlink()
    with pytest.raises(DataError, match=r"lacks testing_list.txt; fetch both"):
        load_spoken_words(Request(root=tmp_path))
