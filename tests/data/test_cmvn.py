import json

import numpy as np
import pytest
import soundfile

from unichoir.audio.fbank import FbankConfig
from unichoir.data.cmvn import GlobalCmvn, compute_cmvn
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance
from unichoir.errors import AudioError, ConfigError


@pytest.fixture
def utterances(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(16000 + 1000 * number), 16000)
    return [Utterance(key=str(number), wav=str(tmp_path / f"{number}.wav"), txt="") for number in range(3)]


def test_statistics_equal_those_of_all_frames_at_once(utterances, tmp_path):
    calls = []
    broken = Utterance(key="broken", wav=str(tmp_path / "none.wav"), txt="")
    cmvn, skipped = compute_cmvn([*utterances, broken], FeatureReader(), lambda *call: calls.append(call))
    frames = np.concatenate([FeatureReader().features(utterance) for utterance in utterances]).astype(np.float64)
    assert cmvn.frame_num == len(frames)
    np.testing.assert_allclose(cmvn.mean, frames.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(cmvn.istd, 1 / frames.std(axis=0), rtol=1e-6)
    assert [item.key for item in skipped] == ["broken"]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_lead_is_no_sound(utterances):
    with_lead, _ = compute_cmvn(utterances, FeatureReader(fbank=FbankConfig(lead_frames=2)))
    without, _ = compute_cmvn(utterances, FeatureReader())
    assert with_lead.frame_num == without.frame_num
    np.testing.assert_array_equal(with_lead.mean_stat, without.mean_stat)


def test_saved_and_loaded_in_the_format_of_wenet(utterances, tmp_path, fixtures):
    cmvn, _ = compute_cmvn(utterances, FeatureReader())
    cmvn.save(tmp_path / "global_cmvn")
    loaded = GlobalCmvn.load(tmp_path / "global_cmvn")
    np.testing.assert_array_equal(loaded.mean_stat, cmvn.mean_stat)
    np.testing.assert_array_equal(loaded.var_stat, cmvn.var_stat)
    assert loaded.frame_num == cmvn.frame_num
    theirs = json.loads((fixtures / "wenet_moe_tiny" / "global_cmvn").read_text())
    assert set(theirs) == set(json.loads((tmp_path / "global_cmvn").read_text()))
    assert GlobalCmvn.load(fixtures / "wenet_moe_tiny" / "global_cmvn").frame_num == theirs["frame_num"]


def test_a_bin_that_never_changes_has_a_finite_scale():
    cmvn = GlobalCmvn(mean_stat=np.array([10.0]), var_stat=np.array([20.0]), frame_num=5)
    assert cmvn.istd == pytest.approx(1e10)


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(AudioError, match="no audio could be read from 1 utterances"):
        compute_cmvn([Utterance(key="a", wav=str(tmp_path / "none.wav"), txt="")], FeatureReader())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        '{"mean_stat": [1], "var_stat": [1, 2], "frame_num": 3}',
        '{"mean_stat": [1], "var_stat": [1], "frame_num": 0}',
        '{"mean_stat": ["a"], "var_stat": [1], "frame_num": 1}',
        '{"mean_stat": [NaN], "var_stat": [1], "frame_num": 1}',
    ],
)
def test_what_is_no_statistics_is_an_error_naming_the_file(tmp_path, content):
    path = tmp_path / "global_cmvn"
    path.write_text(content)
    with pytest.raises(ConfigError, match="global_cmvn: "):
        GlobalCmvn.load(path)
    with pytest.raises(ConfigError, match="No such file"):
        GlobalCmvn.load(tmp_path / "none")
