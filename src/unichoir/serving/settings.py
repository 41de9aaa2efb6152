"""What an operator can choose about the server."""

import math
import re
from dataclasses import dataclass, field

from unichoir.errors import ConfigError
from unichoir.recognition.options import DecodingOptions, StreamingOptions

MEBIBYTE = 1 << 20


class UnknownLanguage(Exception):
    """What a client may not ask for; the message says what it may."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one server. Raises ConfigError for values that make no sense."""

    model_name: str
    """As clients call it."""
    aliases: tuple[str, ...] = ()
    """Further names by which clients may ask for it."""
    language: str = ""
    """ISO 639-1 code of what the model recognises; requests for another are refused. Empty: not known."""
    languages: tuple[str, ...] = ()
    """Those that clients may choose among, of a model with tokens for them."""
    streaming: StreamingOptions = field(default_factory=StreamingOptions)
    """Of live sessions; clients may choose their own silence, n-best and, in place of these, hotwords."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """Of recordings; clients may choose their own hotwords in place of these."""
    max_sessions: int = 200
    """Live sessions, from the opening of the connection on."""
    max_batch: int = 16
    """Streams that go through the encoder together."""
    max_backlog_seconds: float = 10.0
    """Audio of one session that waits to be recognised; clients that send faster are not read from for a while."""
    max_message_bytes: int = 20 * MEBIBYTE
    """Of one WebSocket message: ten minutes of int16 at 16 kHz."""
    idle_timeout: float = 30.0
    """Seconds without a message after which a session is closed."""
    max_session_seconds: float = 2 * 3600.0
    """Audio in one session."""
    max_upload_bytes: int = 100 * MEBIBYTE
    max_audio_seconds: float = 2 * 3600.0
    """Of one recording."""
    max_waiting_uploads: int = 8
    """Recordings in work and waiting; further ones are refused."""
    max_decoded_bytes: int = 512 * MEBIBYTE
    """Memory for decoded audio of all recordings in work and waiting; those for which there is none are refused."""
    max_hotwords: int = 1000
    """Phrases in the list of one client, of 20 characters on average; 0: clients may give none."""
    api_key: str = ""
    """Bearer token that clients must show; empty: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of this server, other than localhost; *: any. Addresses always count."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages, other than the server's own, that may use it."""
    drain_timeout: float = 30.0
    """Seconds that open sessions and recordings have for their last result after SIGTERM."""
    log_text: bool = False
    """Recognised text in the logs."""

    def __post_init__(self) -> None:
        for name in (
            "max_sessions",
            "max_batch",
            "max_message_bytes",
            "max_upload_bytes",
            "max_waiting_uploads",
            "max_decoded_bytes",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.max_hotwords < 0:
            raise ConfigError(f"max_hotwords: expected at least 0, found {self.max_hotwords}")
        for name in ("idle_timeout", "max_session_seconds", "max_audio_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0 s, found {getattr(self, name)}")
        if self.max_audio_seconds == math.inf:
            raise ConfigError("max_audio_seconds: expected an end, found inf")
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", self.api_key, re.ASCII):
            raise ConfigError("api_key: only letters, digits and !#$%&'*+-.^_`|~ can be sent by web pages")
        if not self.drain_timeout >= 0:
            raise ConfigError(f"drain_timeout: expected at least 0 s, found {self.drain_timeout}")
        if not self.max_backlog_seconds >= 2:
            raise ConfigError(f"max_backlog_seconds: expected at least 2, found {self.max_backlog_seconds}")

    def choose_language(self, name: str) -> str | None:
        """What recognition is restricted to for a client that asks for `name`; None: to nothing.

        An empty name is no wish; of a name with a region, as en-US, the language counts. Raises UnknownLanguage.
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
    """As clients have it from their system, en-US or en_US, in one way."""
    return language.lower().replace("_", "-")
