"""The corpora by name."""

from unichoir.corpora import an4, metadata, recipes
from unichoir.corpora.corpus import Corpus

_LIBRISPEECH_TRAIN = ("train-clean-100", "train-clean-360", "train-other-500", "train-clean-5")
_LIBRISPEECH_DEV = ("dev-clean", "dev-other", "dev-clean-2")
_LIBRISPEECH = (*_LIBRISPEECH_TRAIN, *_LIBRISPEECH_DEV, "test-clean", "test-other")

CORPORA: dict[str, Corpus] = {
    "librispeech": Corpus(
        title="LibriSpeech",
        read=recipes.read_librispeech,
        splits={split: split for split in _LIBRISPEECH},
        combined={"train": _LIBRISPEECH_TRAIN, "dev": _LIBRISPEECH_DEV},
        folders=("LibriSpeech",),
        lang="en",
        any_splits=True,
        download=recipes.download_librispeech,
        source="https://www.openslr.org/12 (Mini LibriSpeech: https://www.openslr.org/31)",
    ),
    "aishell": Corpus(
        title="AISHELL-1",
        read=recipes.aishell,
        splits={split: f"data_aishell/wav/{split}" for split in ("train", "dev", "test")},
        needed=("data_aishell/transcript/aishell_transcript_v0.8.txt",),
        folders=("aishell",),
        lang="zh",
        download=recipes.openslr("aishell"),
        source="https://www.openslr.org/33",
    ),
    "aishell2": Corpus(
        title="AISHELL-2",
        read=recipes.aishell2,
        splits={
            split: f"AISHELL-2/iOS/{folder}/trans.txt"
            for split, folder in (("train", "data"), ("dev", "dev"), ("test", "test"))
        },
        lang="zh",
        source="https://www.aishelltech.com/aishell_2, after an application by an institution",
    ),
    "wenetspeech": Corpus(
        title="WenetSpeech",
        read=metadata.read_wenetspeech,
        splits=dict.fromkeys(metadata.WENETSPEECH_SUBSETS, "WenetSpeech.json"),
        folders=("WenetSpeech",),
        lang="zh",
        streamed=True,
        source="https://wenet.org.cn/WenetSpeech, with the password that its form gives",
    ),
    "gigaspeech": Corpus(
        title="GigaSpeech",
        read=metadata.read_gigaspeech,
        splits=dict.fromkeys(metadata.GIGASPEECH_SUBSETS, "GigaSpeech.json"),
        folders=("GigaSpeech",),
        lang="en",
        streamed=True,
        source="https://github.com/SpeechColab/GigaSpeech, with the password that its form gives",
    ),
    "commonvoice": Corpus(
        title="Common Voice",
        read=recipes.read_common_voice,
        splits={split: f"{split}.tsv" for split in ("train", "dev", "test")},
        needed=("clips",),
        folders=("{language}",),
        any_splits=True,
        source="https://datacollective.mozillafoundation.org, with an account",
    ),
    "thchs30": Corpus(
        title="THCHS-30",
        read=recipes.thchs30,
        splits={split: f"data_thchs30/{split}" for split in ("train", "dev", "test")},
        needed=("data_thchs30/data",),
        folders=("thchs",),
        lang="zh",
        download=recipes.openslr("thchs_30"),
        source="https://www.openslr.org/18",
    ),
    "an4": Corpus(
        title="AN4",
        read=an4.read_an4,
        splits={
            "train": "etc/an4_train.transcription",
            "dev": "etc/an4_train.transcription",
            "test": "etc/an4_test.transcription",
        },
        needed=("wav/an4_clstk", "wav/an4test_clstk"),
        folders=("an4",),
        lang="en",
        download=an4.download_an4,
        source="https://huggingface.co/datasets/espnet/an4",
    ),
}
