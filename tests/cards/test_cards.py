import dataclasses
import os
from fractions import Fraction
from pathlib import Path

import pytest

from tsm_edge import cards
from tsm_edge.cards import load_model, load_target, model_names, target_names
from tsm_edge.errors import CardError

MODEL = """
description = "three classes"
source = "a test"

[network]
backbone = "mobilenet-v2"
classes = 3
"""

TARGET = """
description = "a board"
source = "a test"

[cpu]
triple = "aarch64-unknown-linux-gnu"
cpu = "cortex-a72"
vector_lanes = 4
vector_registers = 32
l1d_kib = 32
l2_kib = 1024
cores = 4
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", model_names())
def test_every_shipped_model_loads_and_says_what_it_is(name: str) -> None:
    card = load_model(name)
    assert card.name == name
    assert card.description
    assert card.source
    assert len(card.labels) == card.network.classes
    assert len(set(card.labels)) == len(card.labels)


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_loads_and_says_what_it_is(name: str) -> None:
    card = load_target(name)
    assert card.name == name
    assert card.description
    assert card.source
    assert card.cpu.cores >= 1


def test_the_models_of_the_paper_are_shipped() -> None:
    assert set(model_names()) >= {
        "mobilenetv2-jester",
        "mobilenetv2-kinetics",
        "resnet50-kinetics",
        "resnet50-something",
        "resnet101-something",
        "mobilenetv2-kinetics-8f",
        "resnet50-kinetics-8f",
        "resnet50-something-16f",
        "resnext101-kinetics-8f",
        "resnet50-nl-kinetics-8f",
    }


@pytest.mark.parametrize("name", [name for name in model_names() if name.endswith("f")])
def test_a_card_for_clips_is_named_after_its_frames(name: str) -> None:
    network = load_model(name).network
    assert name.endswith(f"-{network.frames}f")
    assert network.temporal_mode == ("none" if "-tsn-" in name else "offline")
    assert network.channels == (10 if "-flow-" in name else 3)


def test_jester_is_the_upstream_demo() -> None:
    card = load_model("mobilenetv2-jester")
    assert card.network.temporal_mode == "online"
    assert card.network.shift_proportion == Fraction(1, 8)
    assert (card.labels[0], card.labels[2], card.labels[14]) == ("Doing other things", "No gesture", "Stop Sign")
    assert card.smoothing.window == 12
    assert card.smoothing.shown_as == ((0, 2),)


@pytest.mark.parametrize(
    ("name", "index", "label"),
    [
        ("mobilenetv2-kinetics", 0, "abseiling"),
        ("resnet50-kinetics", 399, "zumba"),
        ("resnet50-something", 0, "Approaching something with your camera"),
        ("resnet101-something", 173, "Wiping something off of something"),
    ],
)
def test_labels_are_in_class_order(name: str, index: int, label: str) -> None:
    assert load_model(name).labels[index] == label


@pytest.mark.parametrize(
    ("size", "short_side"),
    [(256, 256), (240, 256), (288, 288), (112, 128), ((128, 224), 146), ((256, 340), 256)],
)
def test_another_frame_size_sees_as_much_of_a_picture_or_more(size: cards.Extent, short_side: int) -> None:
    card = load_model("resnet50-kinetics-8f")
    other = card.with_frame_size(size)
    assert (other.network.frame_size, other.preprocess.crop, other.preprocess.short_side) == (size, size, short_side)
    assert other.with_frame_size(224).network == card.network
    assert short_side / min(cards.height_width(size)) <= 256 / 224 + 0.01


def test_a_frame_size_that_no_network_has() -> None:
    with pytest.raises(CardError, match="frame_size is 16 px, expected 32 to 2048 px"):
        load_model("motion").with_frame_size(16)


def test_cards_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_model("mobilenetv2-jester").network.classes = 3  # type: ignore[misc]


def test_a_card_of_ones_own_is_read_by_path_and_named_after_its_file(tmp_path: Path) -> None:
    card = load_model(write(tmp_path, MODEL))
    assert (card.name, card.network.classes, card.labels) == ("mine", 3, ())
    assert load_target(str(write(tmp_path, TARGET))).cpu.cpu == "cortex-a72"


def test_native_is_filled_in_by_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataclasses.replace(load_target("x86-64").cpu, cores=7)
    monkeypatch.setattr("tsm_edge.cards.detect.detect_cpu", lambda: found)
    monkeypatch.setattr("tsm_edge.cards.detect.detect_libc", lambda: "musl")
    card = load_target("native")
    assert (card.cpu, card.libc) == (found, "musl")


def test_unknown_model_suggests_and_lists_what_is_known() -> None:
    with pytest.raises(CardError) as caught:
        load_model("mobilenet-jester")
    message = str(caught.value)
    assert "did you mean 'mobilenetv2-jester'?" in message
    assert all(name in message for name in model_names())
    assert "tsm-edge models" in message


def test_unknown_target_lists_what_is_known() -> None:
    with pytest.raises(CardError) as caught:
        load_target("toaster")
    assert all(name in str(caught.value) for name in target_names())
    assert "tsm-edge targets" in str(caught.value)


def test_a_card_of_ones_own_that_is_called_as_a_shipped_one_is_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MODEL)
    with pytest.raises(CardError, match=r"unknown model 'mine'.*; for the file here, \./mine\.toml; see them with"):
        load_model("mine")
    with pytest.raises(CardError, match=r"native\.toml: no such file; the shipped one is called native, see them"):
        load_target("native.toml")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"none\.toml: no such file; see .* tsm-edge models"):
        load_model(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("classes = 3", "classes = 3\nshift_propotion = 0", "unknown key 'shift_propotion' (did you mean 'shift_prop"),
        ("classes = 3", "", "network: key 'classes' is missing"),
        ("classes = 3", 'classes = "3"', "classes is '3', expected a whole number"),
        ("classes = 3", "classes = true", "classes is True, expected a whole number"),
        ("classes = 3", "classes = 3.0", "classes is 3.0, expected a whole number"),
        ("classes = 3", "classes = 0", "classes is 0, expected 1 to 100000; correct classes"),
        ("classes = 3", "classes = 2000000000", "classes is 2000000000, expected 1 to 100000"),
        ("classes = 3", f"classes = 0x{'f' * 9999}", "classes is a very large int, expected a whole number of 64 bits"),
        ("classes = 3", f"classes = {'9' * 9999}", "not a readable TOML file"),
        ("classes = 3", f"classes = {'[' * 9999}", "not a readable TOML file"),
        ("classes = 3", f"classes = '{'x' * 9999}'", f"classes is '{'x' * 59}…, expected a whole number"),
        ("classes = 3", f"classes = 3\n{'x' * 9999} = 1", f"unknown key '{'x' * 60}…'"),
        ("classes = 3", f"classes = 3\nwidth = 1{'0' * 999}", "expected a finite number"),
        ("classes = 3", "classes = 3\nframe_size = 1_000_000", "frame_size is 1000000 px, expected 32 to 2048 px"),
        ("classes = 3", "classes = 3\nframes = 2_000_000", "frames is 2000000, expected 1 to 128"),
        ("classes = 3", 'classes = 3\nshift_proportion = "1e999999999"', "expected a fraction"),
        ("classes = 3", "classes = 3\nshift_proportion = 0x" + "f" * 9999, "a very large int, expected a fraction"),
        ("classes = 3", "classes = 3\ntemporal_mode = 3", "temporal_mode is 3, expected one of online, offline, none"),
        (
            "[network]",
            "[preprocess]\nshort_side = 1_000_000_000\n[network]",
            "short_side is 1000000000 px, expected 1 to",
        ),
        ("[network]", f"[preprocess]\ncrop = 0x{'f' * 9999}\n[network]", "crop is a very large int, expected a whole"),
        ("[network]", "[preprocess]\ncrop = [224, 1_000_000]\n[network]", "crop is 1000000 px, expected 1 to 8192 px"),
        ("[network]", "[preprocess]\ncrop = 0\n[network]", "crop is 0 px, expected 1 to 8192 px"),
        ("[network]", "[preprocess]\nshort_side = 200\n[network]", "the crop of 224 px; set short_side = 256"),
        ("[network]", "[preprocess]\nmean = [124, 116, 104]\n[network]", "divide numbers made for 0 to 255 by 255"),
        ("[network]", "[preprocess]\nstd = [1e-30, 1, 1]\n[network]", "expected -1 to 1 and 0.001 to 2"),
        (
            "[network]",
            "[smoothing]\nwindow = 2_000_000_000\n[network]",
            "smoothing window is 2000000000, expected 1 to",
        ),
        (
            "[network]",
            'name = "../../../evil"\n[network]',
            "name is '../../../evil', expected a plain name: no '/' or ",
        ),
        ("[network]", 'name = "--json"\n[network]', "name is '--json', expected a plain name"),
        ("[network]", 'name = ""\n[network]', "name is '', expected a plain name"),
        ("[network]", 'name = "a\\u001b[2Jb"\n[network]', r"name is 'a\x1b[2Jb', expected a plain name"),
        ("[network]", f'name = "{"é" * 51}"\n[network]', "at most 100 bytes; set another one"),
        ("classes = 3", "classes = 3\nwidth = nan", "width is nan, expected a finite number"),
        ("classes = 3", "classes = 3\nwidth = 9", "width is 9.0, expected 0.1 to 4.0"),
        ("classes = 3", 'classes = 3\nshift_proportion = "1/0"', "shift_proportion is '1/0', expected a fraction"),
        ("classes = 3", "classes = 3\nshift_proportion = 0.125", "shift_proportion is 0.125, expected a fraction"),
        ("classes = 3", 'classes = 3\nshift_proportion = "1/3"', "expected one of 0, 1/8, 1/4, 1/2, 1"),
        ("classes = 3", 'classes = 3\ntemporal_mode = "onlin"', "unknown value 'onlin' (did you mean 'online'?)"),
        ("classes = 3", "classes = 3\nframe_size = [128, 9]", "frame_size is 9 px, expected 32 to 2048 px"),
        ("classes = 3", "classes = 3\nframe_size = [128]", "frame_size is [128], expected a list of 2"),
        ("classes = 3", 'classes = 3\nframe_size = [128, "a"]', "frame_size[1] is 'a', expected a whole number"),
        ("classes = 3", "classes = 3\nframe_size = [128, 224]", "frame size of 128x224 px; set crop = [128, 224] in"),
        (
            "[network]",
            "[preprocess]\ncrop = [300, 400]\n[network]",
            "crop of 300x400 px; set short_side = 343",
        ),
        ("classes = 3", "classes = 3\nframe_size = 192", "crop is 224 px, expected the frame size of 192 px"),
        ('"mobilenet-v2"', '"mobilenet-v3"', "unknown backbone 'mobilenet-v3' (did you mean 'mobilenet-v2'?)"),
        ('"mobilenet-v2"', '"resnet-50-nl"', "resnet-50-nl is offline only"),
        ("classes = 3", "classes = 3\nchannels = 4", "channels is 4, expected 3 (RGB) or 10 (five fields of"),
        ("classes = 3", "classes = 3\nchannels = 10", "but an online network takes camera frames: expected 3"),
        (
            "classes = 3",
            'classes = 3\nchannels = 10\ntemporal_mode = "offline"',
            "mean and std differ from channel to channel, but optical flow has one of each",
        ),
        ('"mobilenet-v2"', "2", "backbone is 2, expected text"),
        ('[network]\nbackbone = "mobilenet-v2"\nclasses = 3', "network = 1", "network: expected a table, found 1"),
        ("[network]", 'labels = ["a", "b", "c"]\n[network]', "is not read from a card; name a file: labels_file = "),
        ("[network]", 'labels_file = "none.txt"\n[network]', "none.txt: cannot be read (No such file or directory)"),
        ("[network]", "[preprocess]\nmean = 0.5\n[network]", "mean is 0.5, expected a list"),
        ("[network]", '[preprocess]\nmean = [0.5, 0.5, "x"]\n[network]', "mean[2] is 'x', expected a number"),
        ("[network]", "[preprocess]\nstd = [1, 1, 0]\n[network]", "std must be positive"),
        ("[network]", "[smoothing]\nmasked = [3]\n[network]", "smoothing names class 3, expected 0 to 2"),
        (
            "[network]",
            "[smoothing]\nmasked = [0, 1, 2]\n[network]",
            "smoothing masks every class, expected at least one",
        ),
        ("[network]", "[smoothing]\nshown_as = [[0]]\n[network]", "shown_as must be pairs"),
        ("[network]", "[network", "not a readable TOML file"),
    ],
)
def test_a_wrong_model_card_is_refused_in_one_line_naming_it(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = write(tmp_path, MODEL.replace(old, new))
    with pytest.raises(CardError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert expected in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cores = 4", "cores = 0", "cores is 0, expected 1 to 4096"),
        ("cores = 4", "core = 4", "unknown key 'core' (did you mean 'cores'?)"),
        ("cores = 4", "cores = 4\nclock_mhz = -1", "clock_mhz is -1, expected 0 to 20000"),
        ("cores = 4", "cores = 4\nfma_per_cycle = 0", "fma_per_cycle is 0.0, expected 0.01 to 16"),
        ("cores = 4", 'cores = 4\nfloat_abi = "softfp"', "float_abi is 'softfp'"),
        ("vector_lanes = 4", "vector_lanes = 3", "vector_lanes is 3, expected 4, 8 or 16"),
        ("vector_registers = 32", "vector_registers = 8", "vector_registers is 8, expected 16 or 32"),
        ("cores = 4", "cores = 1_000_000", "cores is 1000000, expected 1 to 4096"),
        ("l2_kib = 1024", "l2_kib = 0x7fffffffff", "l2_kib is 549755813887, expected 1 to 1048576"),
        (
            "aarch64-unknown-linux-gnu",
            "bogus-triple",
            "triple is 'bogus-triple', expected 'x86_64-unknown-linux-gnu', ",
        ),
        ("aarch64-unknown-linux-gnu", "armv7l-linux-gnueabi", "triple is 'armv7l-linux-gnueabi', expected"),
        ("aarch64-unknown-linux-gnu", "armv7l-linux-androideabi", "triple is 'armv7l-linux-androideabi', expected"),
        ("aarch64-unknown-linux-gnu", "arm64-linux-gnu", "triple is 'arm64-linux-gnu', expected"),
        (
            "aarch64-unknown-linux-gnu",
            "aarch64-linux-android",
            "libc is 'glibc-2.17', but triple is 'aarch64-linux-android'",
        ),
        ("[cpu]", 'libc = "bionic"\n[cpu]', "bionic is Android's, alone"),
        ("[cpu]", 'libc = "glibc-2.5"\n[cpu]', "libc is 'glibc-2.5', expected 'glibc-2.17' or a later version"),
        ('"cortex-a72"', '"cortex a72"', "cpu is 'cortex a72', expected a name of LLVM's"),
        ("cores = 4", 'cores = 4\nfeatures = ["neon"]', "features has 'neon', expected a name of LLVM's after +"),
        ("[cpu]", 'name = "a/b"\n[cpu]', "name is 'a/b', expected a plain name"),
        ("[cpu]", 'libc = "newlib"\n[cpu]', "libc is 'newlib', expected 'glibc-2.17'"),
        ("[cpu]", 'device = "tpu"\n[cpu]', "unknown value 'tpu' (did you mean 'cpu'?): known are cpu, cuda"),
        ("[cpu]", "power_sensors = [1]\n[cpu]", "power_sensors[0] is 1, expected text"),
    ],
)
def test_a_wrong_target_card_is_refused_in_one_line_naming_it(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    path = write(tmp_path, TARGET.replace(old, new))
    with pytest.raises(CardError) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_label_file_must_be_as_long_as_the_classifier_is_wide(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    path = write(tmp_path, MODEL.replace("[network]", 'labels_file = "two.txt"\n[network]'))
    with pytest.raises(CardError, match=r"two\.txt has 2 labels, expected 3 \(one a class\)"):
        load_model(path)


def test_labels_keep_their_words_and_lose_their_line_ends(tmp_path: Path) -> None:
    (tmp_path / "three.txt").write_bytes("Thumb Up\r\nPouce levé\r\nno, really\r\n".encode())
    path = write(tmp_path, MODEL.replace("[network]", 'labels_file = "three.txt"\n[network]'))
    assert load_model(path).labels == ("Thumb Up", "Pouce levé", "no, really")


def test_labels_are_one_line_of_text_each(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL.replace("[network]", 'labels_file = "three.txt"\n[network]'))
    (tmp_path / "three.txt").write_text("one\n\x1b[2Jtwo\nthree\n")
    with pytest.raises(CardError, match=r"label 1 is '\\x1b\[2Jtwo', expected 1 to 200 characters and no control"):
        load_model(path)
    (tmp_path / "three.txt").write_text(f"one\ntwo\n{'x' * 201}\n")
    with pytest.raises(CardError, match=r"label 2 is 'xxx.*…, expected 1 to 200 characters"):
        load_model(path)


@pytest.mark.parametrize("name", [".", "/dev/zero", "x" * 300])
def test_a_label_file_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, MODEL.replace("[network]", f'labels_file = "{name}"\n[network]'))
    with pytest.raises(CardError, match=r"mine\.toml: labels_file .*: (is not a file|cannot be read)"):
        load_model(path)


def test_a_file_name_that_is_no_utf8_cannot_name_the_card(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.toml")
    path.write_text(MODEL)
    with pytest.raises(CardError, match=r'expected a plain name: .*; set another one, as in name = "my-model"'):
        load_model(path)
    path.write_text(f'name = "good"\n{MODEL}')
    assert load_model(path).name == "good"


def test_a_byte_order_mark_is_no_part_of_a_card_or_a_label(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "three.txt").write_bytes(mark + b"Doing other things\r\nDrumming Fingers\r\nNo gesture\r\n")
    text = MODEL.replace("[network]", 'labels_file = "three.txt"\n[network]')
    (tmp_path / "mine.toml").write_bytes(mark + text.encode())
    assert load_model(tmp_path / "mine.toml").labels == ("Doing other things", "Drumming Fingers", "No gesture")
    (tmp_path / "board.toml").write_bytes(mark + TARGET.encode())
    assert load_target(tmp_path / "board.toml").cpu.cpu == "cortex-a72"


def test_labels_that_are_not_utf8_are_refused_naming_card_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "three.txt").write_bytes("one\nPouce levé\nthree\n".encode("latin-1"))
    path = write(tmp_path, MODEL.replace("[network]", 'labels_file = "three.txt"\n[network]'))
    with pytest.raises(CardError) as caught:
        load_model(path)
    assert str(caught.value).startswith(
        f"{path}: labels_file {tmp_path / 'three.txt'}: is not UTF-8 (byte 0xe9 in line 2)"
    )


def test_a_model_card_survives_the_round_trip_through_a_table() -> None:
    card = load_model("mobilenetv2-jester")
    assert cards.model_from_table(cards.model_to_table(card), "a test") == card
