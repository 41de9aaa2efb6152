"""A small corpus; a web server and an object store on loopback that tests of data read from."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.data.examples import WORDS
from tests.data.web_server import WebServer, serving

from unichoir.data.manifest import Utterance


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr("unichoir.data.storage.BACKOFF_SECONDS", 0.0)
    with serving(tmp_path / "web") as server:
        yield server


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """An S3 server (moto), configured through the environment as users do; yields the URL of a bucket."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="speech")
        yield "s3://speech"
        server.stop()


def upload(folder: Path, url: str) -> None:
    """Upload all files of a folder, with a different client than the one that reads them."""
    import boto3

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{prefix}/{path.relative_to(folder).as_posix()}".lstrip("/")
            boto3.client("s3").upload_file(str(path), bucket, name)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Eight utterances of noise, 0.5 to 1.2 s long, from two speakers; the key of each is also its text."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for number, word in enumerate(WORDS):
        path = folder / f"{word}.wav"
        samples = 0.1 * rng.standard_normal(8000 + 1600 * number)
        soundfile.write(path, samples, 16000)
        utterances.append(
            Utterance(key=word, wav=str(path), txt=word, duration=len(samples) / 16000, speaker=f"s{number % 2}")
        )
    return utterances
