# ruff: noqa: RUF001 - full-width and typographic characters are part of what is published
"""Small folders with the published layout of each corpus: file names, lists and metadata; tones replace speech."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from unichoir.audio.io import Samples

RATE = 16000
LIBRISPEECH = ("train-clean-100", "train-other-500", "dev-clean", "test-clean")


@dataclass(frozen=True)
class Spoken:
    """The expected entry of an utterance in a manifest, and the pitch that identifies its audio."""

    key: str
    txt: str
    speaker: str
    hertz: int
    seconds: float


@dataclass
class Layout:
    """A folder, and the expected result of `unichoir prepare NAME FOLDER OPTIONS`."""

    name: str
    folder: Path
    splits: dict[str, list[Spoken]]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each split the keys left out, each with a part of the reason."""
    options: tuple[str, ...] = ()
    lang: str = "zh"
    home: Path | None = None
    """Where manifests go that no --output is given for."""


def tone(hertz: float, seconds: float) -> Samples:
    samples: Samples = (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)
    return samples


def write_audio(path: Path, *parts: tuple[int, float], format: str | None = None) -> None:
    """Tones of (hertz, seconds) one after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subtype = "OPUS" if path.suffix == ".opus" else None
    format = format or ("OGG" if path.suffix == ".opus" else None)
    soundfile.write(path, np.concatenate([tone(*part) for part in parts]), RATE, format=format, subtype=subtype)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def librispeech(folder: Path, splits: Sequence[str] = LIBRISPEECH) -> Layout:
    spoken: dict[str, list[Spoken]] = {}
    root = folder / "LibriSpeech"
    write(root / "SPEAKERS.TXT", ";ID  |SEX| SUBSET           |MINUTES| NAME")
    for number, split in enumerate(splits):
        chapter = f"{84 + number}-121123"
        spoken[split] = [
            Spoken(f"{chapter}-0000", "GO DO YOU HEAR", str(84 + number), 300 + 100 * number, 1.5),
            Spoken(f"{chapter}-0001", "BUT IN LESS THAN FIVE MINUTES IT'S", str(84 + number), 350 + 100 * number, 2.0),
        ]
        home = root / split / chapter.replace("-", "/")
        for one in spoken[split]:
            write_audio(home / f"{one.key}.flac", (one.hertz, one.seconds))
        write(home / f"{chapter}.trans.txt", *(f"{one.key} {one.txt}" for one in spoken[split]))
    spoken["train"] = [one for split in splits if split.startswith("train") for one in spoken[split]]
    spoken["dev"] = [one for split in splits if split.startswith("dev") for one in spoken[split]]
    left_out = {}
    if "dev-clean" in splits:
        number = splits.index("dev-clean")
        with next((root / "dev-clean").rglob("*.trans.txt")).open("a") as file:
            file.write(f"{84 + number}-121123-0002 IT IS LOST\n")
        left_out = {"dev-clean": {f"{84 + number}-121123-0002": "no such recording"}}
    return Layout("librispeech", folder, spoken, left_out, lang="en", home=root)


def aishell(folder: Path) -> Layout:
    root = folder / "data_aishell"
    texts = [
        (
            "train",
            "S0002",
            "BAC009S0002W0122",
            "而 对 楼市 成交 抑制 作用 最 大 的 限 购",
            "而对楼市成交抑制作用最大的限购",
        ),
        ("train", "S0003", "BAC009S0003W0121", "ｔ 恤 和 ｋ 歌", "T 恤和 K 歌"),
        ("dev", "S0724", "BAC009S0724W0121", "广州市 房地产 中介 协会 分析", "广州市房地产中介协会分析"),
        ("test", "S0764", "BAC009S0764W0121", "甚至 出现 交易 几乎 停滞 的 情况", "甚至出现交易几乎停滞的情况"),
    ]
    spoken: dict[str, list[Spoken]] = {"train": [], "dev": [], "test": []}
    for number, (split, speaker, key, _, txt) in enumerate(texts):
        spoken[split].append(Spoken(key, txt, speaker, 300 + 60 * number, 1.5 + number / 10))
        write_audio(root / "wav" / split / speaker / f"{key}.wav", (300 + 60 * number, 1.5 + number / 10))
    write(root / "transcript" / "aishell_transcript_v0.8.txt", *(f"{key} {text}" for _, _, key, text, _ in texts))
    write_audio(root / "wav" / "train" / "S0002" / "BAC009S0002W0130.wav", (700, 0.5))
    return Layout("aishell", folder, spoken, {"train": {"BAC009S0002W0130": "no transcript"}})


def aishell2(folder: Path) -> Layout:
    root = folder / "AISHELL-2" / "iOS"
    texts = {
        "train": [
            ("C0001", "IC0001W0001", "厨房用品", "厨房用品"),
            ("C0001", "IC0001W0062", "听beat it", "听 BEAT IT"),
        ],
        "dev": [("D0073", "ID0073W0058", "搬不走的要及时'关停并转'", "搬不走的要及时关停并转")],
        "test": [("T0012", "IT0012W0161", "I'm", "I'M")],
    }
    spoken: dict[str, list[Spoken]] = {}
    for number, (split, rows) in enumerate(texts.items()):
        home = root / ("data" if split == "train" else split)
        spoken[split] = [
            Spoken(key, txt, speaker, 300 + 100 * number + 50 * place, 0.5)
            for place, (speaker, key, _, txt) in enumerate(rows)
        ]
        for one in spoken[split]:
            write_audio(home / "wav" / one.speaker / f"{one.key}.wav", (one.hertz, one.seconds))
        write(home / "trans.txt", *(f"{key}\t{text}" for _, key, text, _ in rows))
        write(home / "wav.scp", *(f"{key}\twav/{speaker}/{key}.wav" for speaker, key, _, _ in rows))
    return Layout("aishell2", folder, spoken)


def wenetspeech(folder: Path) -> Layout:
    def segment(sid: str, begin: float, end: float, text: str, *subsets: str) -> dict[str, object]:
        return {
            "sid": sid, "confidence": 1.0, "begin_time": begin, "end_time": end, "subsets": subsets, "text": text,
        }  # fmt: skip

    def audio(aid: str, path: str, duration: float, *segments: dict[str, object]) -> dict[str, object]:
        tags = ["youtube", "drama"]
        return {
            "aid": aid, "duration": duration, "md5": "0" * 32, "path": path, "source": "youtube", "tags": tags,
            "url": f"https://www.youtube.com/watch?v={aid}", "segments": segments,
        }  # fmt: skip

    train, dev = "Y0000000000_--5llN02F84", "Y0000000092_0EZySBwoIRw"
    lost, net = "Y0000000003_lost", "TEST_NET_Y0000000000_-KTKHdZ2fb8"
    paths = {
        train: f"audio/train/youtube/B00000/{train}.opus",
        dev: f"audio/dev/youtube/B00000/{dev}.opus",
        lost: f"audio/train/youtube/B00001/{lost}.opus",
        net: f"audio/test_net/youtube/B00000/{net}.opus",
    }
    audios = [
        audio(
            train, paths[train], 4.0,
            segment(f"{train}_S00000", 0.0, 1.0, "怎么样这些日子住得还习惯吧", "L", "M", "S"),
            segment(f"{train}_S00001", 1.0, 2.5, "这个ＡＰＰ很好用，真的？", "L"),
            segment(f"{train}_S00002", 2.5, 3.0, "弱标注", "W"),
            segment(f"{train}_S00003", 3.0, 4.0, "，", "L"),
        ),
        audio(lost, paths[lost], 3.0, segment(f"{lost}_S00000", 0.5, 1.0, "丢了", "L", "M")),
        audio(dev, paths[dev], 2.0, segment(f"{dev}_S00000", 0.5, 2.0, "and then 就走了", "DEV")),
        audio(net, paths[net], 1.0, segment(f"{net}_S00000", 0.0, 1.0, "全部", "TEST_NET")),
    ]  # fmt: skip
    write_audio(folder / paths[train], (300, 1.0), (400, 1.5), (500, 1.5))
    write_audio(folder / paths[dev], (200, 0.5), (600, 1.5))
    write_audio(folder / paths[net], (700, 1.0))
    content = {"dataset": "WenetSpeech", "language": "zh", "version": "v1.0", "audios": audios}
    write(folder / "WenetSpeech.json", json.dumps(content, ensure_ascii=False, indent=4))
    small = [Spoken(f"{train}_S00000", "怎么样这些日子住得还习惯吧", "", 300, 1.0)]
    return Layout(
        "wenetspeech",
        folder,
        {
            "train-l": [*small, Spoken(f"{train}_S00001", "这个 APP 很好用真的", "", 400, 1.5)],
            "train-m": small,
            "train-s": small,
            "dev": [Spoken(f"{dev}_S00000", "AND THEN 就走了", "", 600, 1.5)],
            "test-net": [Spoken(f"{net}_S00000", "全部", "", 700, 1.0)],
        },
        {
            "train-l": {f"{lost}_S00000": "no such recording", f"{train}_S00003": "no transcript"},
            "train-m": {f"{lost}_S00000": "no such recording"},
        },
    )


def gigaspeech(folder: Path) -> Layout:
    def segment(number: int, begin: float, end: float, text: str, *subsets: str, speaker: str = "N/A"):
        return {
            "sid": f"POD0000000001_S{number:07}", "speaker": speaker, "begin_time": begin, "end_time": end,
            "subsets": [f"{{{name}}}" for name in subsets], "text_tn": text,
        }  # fmt: skip

    aid, path = "POD0000000001", "audio/podcast/P0000/POD0000000001.opus"
    audio = {
        "title": "a podcast", "url": "https://99percentinvisible.org", "path": path, "aid": aid, "source": "podcast",
        "codec_info": "mp3 44100 Hz, stereo", "sample_rate": 16000, "channels": 1, "md5": "0" * 32, "duration": 5.0,
        "format": "opus", "speaker": "N/A", "category": "N/A", "subsets": ["{XL}", "{L}", "{DEV}"],
        "segments": [
            segment(1, 0.0, 1.0, "DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE <PERIOD>", "XL", "L"),
            segment(2, 1.0, 2.0, "YOU WALK THROUGH THE DOOR <COMMA> YOU SEE <QUESTIONMARK>", "XL", speaker="SPK1"),
            segment(3, 2.0, 3.0, "<MUSIC>", "XL", "L"),
            segment(4, 3.0, 4.0, "IT'S A DOOR <EXCLAMATIONPOINT>", "DEV"),
            segment(5, 5.5, 6.0, "BEYOND THE END", "XL"),
        ],
    }  # fmt: skip
    write_audio(folder / path, (300, 1.0), (400, 1.0), (500, 1.0), (600, 2.0))
    write(folder / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "version": "v1.0.0", "audios": [audio]}))
    first = Spoken(f"{aid}_S0000001", "DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE", "", 300, 1.0)
    second = Spoken(f"{aid}_S0000002", "YOU WALK THROUGH THE DOOR YOU SEE", "SPK1", 400, 1.0)
    dev = Spoken(f"{aid}_S0000004", "IT'S A DOOR", "", 600, 1.0)
    return Layout(
        "gigaspeech",
        folder,
        {"train-xl": [first, second], "train-l": [first], "dev": [dev]},
        {
            "train-xl": {f"{aid}_S0000003": "no speech", f"{aid}_S0000005": "outside its recording"},
            "train-l": {f"{aid}_S0000003": "no speech"},
        },
        lang="en",
    )


COMMON_VOICE_HEADER = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
)


def commonvoice(folder: Path) -> Layout:
    root = folder / "cv-corpus-22.0-2025-06-20" / "de"
    rows = {
        "train": [
            (101, "Ä äußerst „unruhig“ - nicht wahr?", "Ä ÄUSSERST UNRUHIG NICHT WAHR"),
            (102, 'Er sagte: "Nein', "ER SAGTE NEIN"),
            (103, "Verloren.", None),
        ],
        "dev": [(104, "So’n Ding!", "SO'N DING")],
        "test": [(105, "Am Ende.", "AM ENDE")],
    }
    spoken: dict[str, list[Spoken]] = {}
    for split, sentences in rows.items():
        spoken[split] = []
        lines = []
        for number, sentence, txt in sentences:
            key, speaker = f"common_voice_de_{number}", f"{number:0128x}"
            if txt is not None:
                write_audio(root / "clips" / f"{key}.mp3", (number * 4, 0.6))
                spoken[split].append(Spoken(key, txt, speaker, number * 4, 0.6))
            lines.append(f"{speaker}\t{key}.mp3\t{number}\t{sentence}\t\t2\t0\ttwenties\tmale_masculine\t\t\tde\t")
        write(root / f"{split}.tsv", COMMON_VOICE_HEADER.replace(" ", "\t"), *lines)
    return Layout(
        "commonvoice",
        folder / "cv-corpus-22.0-2025-06-20",
        spoken,
        {"train": {"common_voice_de_103": "no such clip"}},
        options=("--language", "de"),
        lang="de",
        home=root,
    )


def thchs30(folder: Path) -> Layout:
    root = folder / "data_thchs30"
    texts = {
        "train": ("A11_0", "绿 是 阳春 烟 景 大块 文章 的 底色", "绿是阳春烟景大块文章的底色"),
        "dev": ("A2_33", "他 被 判处 l = 六年 有期徒刑", "他被判处六年有期徒刑"),
        "test": ("D4_750", "东北军 的 一些 爱国 将士", "东北军的一些爱国将士"),
    }
    spoken = {}
    for number, (split, (key, text, txt)) in enumerate(texts.items()):
        spoken[split] = [Spoken(key, txt, key.split("_")[0], 300 + 100 * number, 0.5)]
        write_audio(root / "data" / f"{key}.wav", (300 + 100 * number, 0.5))
        write(root / "data" / f"{key}.wav.trn", text, "lv4 shi4 yang2 chun1", "l v4 sh ix4 ii iang2 ch un1")
        (root / split).mkdir()
        for suffix in ("wav", "wav.trn"):
            (root / split / f"{key}.{suffix}").symlink_to(f"../data/{key}.{suffix}")
    return Layout("thchs30", folder, spoken)


def an4(folder: Path) -> Layout:
    # In the order of speakers 100 utterances of the training list are dev; the list has another order.
    train = [(f"an{number}-f{number // 30:03}-b", f"f{number // 30:03}", 200 + 2 * number) for number in range(103)]
    train.sort(key=lambda row: (row[1], row[0].split("-")[0]))
    lines = [f"<s> RUBOUT G M E F </s> ({key})" for key, _, _ in reversed(train)]
    write(folder / "etc" / "an4_train.transcription", *lines)
    write(folder / "etc" / "an4_test.transcription", "ENTER TWO (an406-fcaw-b)", "YES (an407-fcaw-b)")
    spoken = {"dev": [], "train": []}
    for key, speaker, hertz in train:
        spoken["dev" if len(spoken["dev"]) < 100 else "train"].append(
            Spoken(key, "RUBOUT G M E F", speaker, hertz, 0.1)
        )
        write_audio(folder / "wav" / "an4_clstk" / speaker / f"{key}.sph", (hertz, 0.1), format="NIST")
    write_audio(folder / "wav" / "an4test_clstk" / "fcaw" / "an406-fcaw-b.sph", (300, 0.1), format="NIST")
    write(folder / "wav" / "an4test_clstk" / "fcaw" / "an407-fcaw-b.sph")
    test = [Spoken("an406-fcaw-b", "ENTER TWO", "fcaw", 300, 0.1)]
    return Layout("an4", folder, {**spoken, "test": test}, {"test": {"an407-fcaw-b": "empty"}}, lang="en")


ALL = (librispeech, aishell, aishell2, wenetspeech, gigaspeech, commonvoice, thchs30, an4)
