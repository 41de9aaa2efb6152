"""Settings of the server."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from unichoir.declaration import Option, check_options
from unichoir.errors import ConfigError
from unichoir.recognition.options import DecodingOptions, StreamingOptions

KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20

LIMITS = "Limits"
"""A heading in `--help`."""


class UnknownLanguage(Exception):
    """A language that the model doesn't recognise. The message lists the others."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one server. Raises ConfigError for invalid values."""

    model_name: str
    """The model's name for clients."""
    aliases: tuple[str, ...] = ()
    """Additional names of the model."""
    language: str = ""
    """ISO 639-1 code of the model's language. Requests for others are refused. Empty: unknown."""
    languages: tuple[str, ...] = ()
    """Languages that clients may choose, of a model with language tokens."""
    streaming: StreamingOptions = field(default_factory=StreamingOptions)
    """Options of live sessions. Clients may replace some of them."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """Options of recordings. Clients may replace some of them."""
    engines: Annotated[
        int, Option("Threads that recognise live sessions. Each has its share of them.", low=1, high=64, flag=None)
    ] = 1
    max_sessions: Annotated[int, Option("Live sessions.", low=1, panel=LIMITS)] = 200
    max_batch: Annotated[int, Option("Streams that the encoder computes together.", low=1, panel=LIMITS)] = 16
    max_backlog_seconds: Annotated[
        float,
        Option(
            "Audio of one session that waits to be recognised. The server then stops reading from the client for a "
            "while.",
            low=2,
            unit="s",
            endless=True,
            flag=None,
        ),
    ] = 10.0
    max_message_bytes: Annotated[
        int,
        Option(
            "One WebSocket message.",
            low=1,
            unit="bytes",
            flag="--max-message-kb",
            metavar="KB",
            scale=KIBIBYTE,
            panel=LIMITS,
        ),
    ] = 20 * MEBIBYTE
    idle_timeout: Annotated[
        float,
        Option("A session is closed after this long without a message.", low=0, unit="s", endless=True, panel=LIMITS),
    ] = 30.0
    max_session_seconds: Annotated[
        float,
        Option(
            "Audio of one session.",
            low=0,
            unit="s",
            endless=True,
            flag="--max-session-minutes",
            metavar="MIN",
            scale=60,
            panel=LIMITS,
        ),
    ] = 2 * 3600.0
    max_upload_bytes: Annotated[
        int,
        Option(
            "One uploaded file.",
            low=1,
            unit="bytes",
            flag="--max-upload-mb",
            metavar="MB",
            scale=MEBIBYTE,
            panel=LIMITS,
        ),
    ] = 100 * MEBIBYTE
    max_audio_seconds: Annotated[
        float,
        Option(
            "Audio of one file.",
            low=0,
            unit="s",
            flag="--max-audio-minutes",
            metavar="MIN",
            scale=60,
            panel=LIMITS,
        ),
    ] = 2 * 3600.0
    max_waiting_uploads: Annotated[
        int, Option("Files that are recognised or wait. Further ones are refused.", low=1, panel=LIMITS)
    ] = 8
    max_decoded_bytes: Annotated[
        int,
        Option(
            "Memory for the decoded audio of these files. Files for which there is none left are refused.",
            low=1,
            unit="bytes",
            flag="--max-decoded-mb",
            metavar="MB",
            scale=MEBIBYTE,
            panel=LIMITS,
        ),
    ] = 512 * MEBIBYTE
    max_hotwords: Annotated[
        int,
        Option(
            "Phrases in the list of one client, of 20 characters on average. 0: clients cannot send phrases.",
            low=0,
            panel=LIMITS,
        ),
    ] = 1000
    drain_timeout: Annotated[
        float,
        Option("Time that open sessions and files have after SIGTERM.", low=0, unit="s", endless=True, panel=LIMITS),
    ] = 30.0
    api_key: str = ""
    """Bearer token that clients must send. Empty: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of this server, other than localhost and addresses. *: any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other web pages that may use the server."""
    log_text: bool = False
    """Whether logs contain recognised text."""

    def __post_init__(self) -> None:
        check_options(self, ConfigError)
        for name in ("idle_timeout", "max_session_seconds", "max_audio_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0 s, found {getattr(self, name)}")
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", self.api_key, re.ASCII):
            raise ConfigError("api_key: only letters, digits and !#$%&'*+-.^_`|~ can be sent by web pages")

    def choose_language(self, name: str) -> str | None:
        """Return the language to which a client's `name` restricts recognition. None: no restriction.

        An empty name is no restriction. Of a name with a region, such as en-US, only the language counts. Raises
        UnknownLanguage.
        """
        choices = {_normalized(language): language for language in self.languages}
        wanted, own = _normalized(name), _normalized(self.language)
        if wanted not in (*choices, own):
            wanted = wanted.partition("-")[0]
        if wanted in choices:
            return choices[wanted]
        if name and (not wanted or wanted != own):
            known = ", ".join(self.languages) or (f"{self.language} only" if self.language else "")
            raise UnknownLanguage(f"this model recognises {known or 'a language that the server does not know'}")
        return None

    @property
    def model_names(self) -> tuple[str, ...]:
        """All names of the model."""
        return (self.model_name, *self.aliases)


def _normalized(language: str) -> str:
    """Return a language in one spelling: en-us for en-US and en_US."""
    return language.lower().replace("_", "-")
