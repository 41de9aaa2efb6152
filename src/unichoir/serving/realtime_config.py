"""The configuration of a realtime transcription session, as OpenAI's `session.update` changes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from unichoir.declaration import Option, declared
from unichoir.errors import DecodingError
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.serving.choices import HTTP, InvalidChoice, choose
from unichoir.serving.settings import Settings

PREFIX = "item.input_audio_transcription."
WORDS, PARTIAL, LOGPROBS = f"{PREFIX}words", f"{PREFIX}partial", f"{PREFIX}logprobs"
INCLUDED = {
    WORDS: "Words with times in seconds, in `completed`. Not part of OpenAI's API.",
    PARTIAL: "Events `partial`. Not part of OpenAI's API.",
    LOGPROBS: "Tokens with log probabilities, in `completed`.",
}
"""What clients can ask to be included in events."""
SAMPLE_RATES = (16000, 24000)
KEYWORDS = "session.audio.input.transcription.keywords"


class InvalidUpdate(Exception):
    """A configuration that is malformed or unsupported. param: the path of the field."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


@dataclass(frozen=True, kw_only=True)
class TurnDetection:
    """OpenAI's `server_vad`: the server finds the ends of utterances."""

    threshold: Annotated[
        float,
        Option("A frame is speech if the probability of anything but blank reaches this.", low=0, high=1),
    ] = 0.2
    prefix_padding_ms: Annotated[
        int, Option("How long before its first word an utterance starts.", low=0, high=10_000, unit="ms")
    ] = 300
    silence_duration_ms: Annotated[int, Option("Silence that ends an utterance.", low=40, high=60_000, unit="ms")] = (
        1000
    )


@dataclass(frozen=True, kw_only=True)
class RealtimeConfig:
    """The configuration of one session."""

    model: str
    language: str = ""
    sample_rate: int = 24000
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    """None: the client ends utterances with `input_audio_buffer.commit`."""
    include: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    """The client's choices, by the client's names, as they came."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The same choices as fields of StreamingOptions."""

    @classmethod
    def of(cls, settings: Settings) -> "RealtimeConfig":
        """Return the configuration of a new session."""
        rules, detection = settings.streaming.endpoint, None
        if rules and rules.silence_after_speech is not None:
            silence_ms = round(1000 * rules.silence_after_speech)
            threshold = round(1 - rules.blank_threshold, 6)
            detection = TurnDetection(threshold=threshold, silence_duration_ms=silence_ms)
        return cls(model=settings.model_name, language=settings.language, turn_detection=detection)

    def streaming_options(self, base: StreamingOptions) -> StreamingOptions:
        """Return the recogniser's options. Raises InvalidUpdate for a turn detection out of range."""
        rules, detection = base.endpoint or EndpointRules(), self.turn_detection
        try:
            if detection is None:
                rules = replace(rules, silence_before_speech=None, silence_after_speech=None)
            else:
                silence = detection.silence_duration_ms / 1000
                rules = replace(rules, silence_after_speech=silence, blank_threshold=1 - detection.threshold)
        except DecodingError as error:
            raise InvalidUpdate("session.audio.input.turn_detection", str(error)) from None
        return replace(base, endpoint=rules, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return the `session` of events."""
        language = self.options.get("language") or self.language
        chosen = {name: value for name, value in self.choices.items() if value is not None and name != "language"}
        transcription = {"model": self.model, **({"language": language} if language else {}), **chosen}
        detection = self.turn_detection
        audio = {
            "format": {"type": "audio/pcm", "rate": self.sample_rate},
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": None if detection is None else {"type": "server_vad", **vars(detection)},
        }
        return {"type": "transcription", "audio": {"input": audio}, "include": list(self.include)}

    def updated(self, session: Any, settings: Settings, has_audio: bool) -> "RealtimeConfig":
        """Return the configuration after a `session.update`. Missing keys change nothing. Raises InvalidUpdate."""
        fields = _Fields(session, "session", {"type", "audio", "include", "id", "object", "expires_at"})
        if fields.get("type", "transcription") != "transcription":
            raise InvalidUpdate("session.type", "only 'transcription' is offered here")
        config = self
        if "include" in fields.values:
            config = replace(config, include=_include(fields.values["include"]))
        audio = _Fields(fields.get("audio", {}), "session.audio", {"input"})
        allowed = {"format", "transcription", "noise_reduction", "turn_detection"}
        given = _Fields(audio.get("input", {}), "session.audio.input", allowed)
        if given.get("noise_reduction") is not None:
            raise InvalidUpdate("session.audio.input.noise_reduction", "not offered; use null")
        if "format" in given.values:
            rate = _sample_rate(given.values["format"])
            if has_audio and rate != self.sample_rate:
                raise InvalidUpdate("session.audio.input.format", "cannot change after audio has been appended")
            config = replace(config, sample_rate=rate)
        if given.get("transcription") is not None:
            config = config._with_transcription(given.values["transcription"], settings)
        if "turn_detection" in given.values:
            config = replace(config, turn_detection=_turn_detection(given.values["turn_detection"]))
        config.streaming_options(settings.streaming)
        return config

    def _with_transcription(self, value: Any, settings: Settings) -> "RealtimeConfig":
        where = "session.audio.input.transcription"
        fields = _Fields(value, where, {"model", "prompt", *HTTP})
        model = fields.get("model", self.model)
        if model not in settings.model_names:
            raise InvalidUpdate(f"{where}.model", f"there is no such model; this server has {settings.model_name}")
        if fields.get("prompt"):
            raise InvalidUpdate(f"{where}.prompt", "not offered; leave it out")
        choices = {**self.choices, **{name: fields.values[name] for name in HTTP if name in fields.values}}
        try:
            options = choose({name: each for name, each in choices.items() if each is not None}, HTTP, settings)
        except InvalidChoice as error:
            raise InvalidUpdate(f"{where}.{error.name}", str(error)) from None
        return replace(self, model=model, choices=choices, options=options)


class _Fields:
    """A JSON object with known keys only."""

    def __init__(self, value: Any, where: str, allowed: set[str]) -> None:
        if not isinstance(value, dict):
            raise InvalidUpdate(where, "an object is expected")
        for key in value:
            if key not in allowed:
                raise InvalidUpdate(f"{where}.{key[:100]}", "not offered")
        self.values: dict[str, Any] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or the default if the key is missing."""
        return self.values.get(key, default)


def _sample_rate(value: Any) -> int:
    where = "session.audio.input.format"
    given = _Fields(value, where, {"type", "rate"})
    if given.get("type") != "audio/pcm":
        raise InvalidUpdate(f"{where}.type", "only 'audio/pcm' is offered: int16, little-endian, mono")
    rate = given.get("rate", 24000)
    if rate not in SAMPLE_RATES or isinstance(rate, (bool, float)):
        raise InvalidUpdate(f"{where}.rate", f"expected one of {', '.join(map(str, SAMPLE_RATES))}")
    return int(rate)


def _turn_detection(value: Any) -> TurnDetection | None:
    if value is None:
        return None
    where = "session.audio.input.turn_detection"
    # The last three are for sessions that answer. Only their off values are valid.
    silent = {"create_response", "interrupt_response", "idle_timeout_ms"}
    given = _Fields(value, where, {"type", *(option.name for option in declared(TurnDetection)), *silent})
    if given.get("type") != "server_vad":
        raise InvalidUpdate(f"{where}.type", "only 'server_vad' is offered; null turns it off")
    for key in silent:
        if given.get(key):
            raise InvalidUpdate(f"{where}.{key}", "a transcription session does not answer")
    fields: dict[str, Any] = {}
    for option in declared(TurnDetection):
        value = given.get(option.name, option.default)
        low, high = option.option.low, option.option.high
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidUpdate(f"{where}.{option.name}", f"expected a number {option.range}")
        fields[option.name] = round(value) if option.kind is int else float(value)
    return TurnDetection(**fields)


def _include(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or any(each not in tuple(INCLUDED) for each in value):
        raise InvalidUpdate("session.include", f"expected a list of {', '.join(INCLUDED)}")
    return tuple(value)
