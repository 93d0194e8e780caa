"""Turns in a Redis stream: put there once each, deleted when their rows are safe or their contributor withdraws.

Keys: `attune:turns` (the stream; only what waits or is being worked on), `attune:withdrawn` (contributors), and for each
contributor `attune:sent:<number>` (turn id → entry), by which nothing is sent twice and all can be deleted. Redis 6.2 or newer.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

import soundfile

from cascade.errors import ConfigError, EngineFailed, EngineUnavailable, InputError, one_line
from cascade.needs import extra
from distill.teaching.live.contribution import Letter, Spool

T = TypeVar("T")

TURNS, WITHDRAWN, SENT = "attune:turns", "attune:withdrawn", "attune:sent:"
GROUP = "teach"
MAX_WAITING = 10_000  # turns in a stream; about 4 GB. More stay in their spools until some are taken
TIMEOUT_S = 2.0
OPTIONS = {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}  # that a URL may name after its ?

_ADD = """
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then return 'withdrawn' end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return 'known' end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 'full' end
redis.call('HSET', KEYS[2], ARGV[2], redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4)))
return 'sent'
"""
_WITHDRAW = """
redis.call('SADD', KEYS[3], ARGV[1])
local deleted = 0
for _, entry in ipairs(redis.call('HVALS', KEYS[2])) do
  redis.call('XACK', KEYS[1], ARGV[2], entry)
  deleted = deleted + redis.call('XDEL', KEYS[1], entry)
end
redis.call('DEL', KEYS[2])
return deleted
"""


def checked_url(url: str) -> str:
    """Itself, if it names a Redis. Raises ConfigError."""
    legal = "give redis://HOST:PORT/DB, rediss://… or unix:///PATH"
    try:
        parts = urlsplit(url)
        well = {
            "unix": not parts.netloc.rpartition("@")[2] and len(parts.path) > 1,
            "redis": bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"(/\d*)?", parts.path) is not None,
        }
    except ValueError as error:  # a port that is none
        raise ConfigError(f"stream {shown(url)!r}: {error}; {legal}") from None
    if not well.get(parts.scheme.replace("rediss", "redis"), False) or not set(parse_qs(parts.query)) <= OPTIONS:
        raise ConfigError(f"stream {shown(url)!r} is no Redis URL; {legal}")
    return url


def shown(url: str) -> str:
    """A URL without its user and password."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url, count=1)


class TurnStream:
    """One Redis. Its methods raise EngineUnavailable when it is away, EngineFailed when it refuses.

    Short timeouts and no tries of its own: the caller knows what can wait.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.place = shown(checked_url(url))
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise EngineUnavailable(f"Redis needs a package: {extra('live')}") from None
        self.errors = redis.exceptions
        try:
            self.client: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # answers have one shape in all versions of the package
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"stream {self.place!r}: {one_line(error)}") from None

    def asked(self, call: Callable[[], T]) -> T:
        errors = self.errors
        try:
            return call()
        except (errors.AuthenticationError, errors.AuthorizationError, errors.ResponseError) as error:
            raise EngineFailed(f"Redis at {self.place} refuses: {one_line(error)}") from None
        except (errors.RedisError, OSError) as error:
            raise EngineUnavailable(f"Redis at {self.place} cannot be reached ({one_line(error)})") from None

    def add(self, letter: Letter, sounds: tuple[bytes, bytes]) -> Literal["sent", "known", "withdrawn", "full"]:
        """Put a turn into the stream, unless it was there before. sounds: WAV or FLAC of the person, of the reply."""
        user, reply = map(_as_flac, sounds)
        fields: dict[str, str | bytes] = {
            "letter": letter.model_dump_json(),
            "user": user,
            "user_sha256": hashlib.sha256(user).hexdigest(),
            "reply": reply,
            "reply_sha256": hashlib.sha256(reply).hexdigest(),
        }
        flat = [part for field in fields.items() for part in field]
        arguments = [letter.contributor, letter.turn.id, MAX_WAITING, *flat]
        answer = self.asked(lambda: self.client.eval(_ADD, 3, *_keys(letter.contributor), *arguments))
        return answer.decode()  # type: ignore[no-any-return]

    def withdraw(self, contributor: str) -> int:
        """Delete what waits of a contributor, and take nothing more of theirs. How many turns waited."""
        return int(self.asked(lambda: self.client.eval(_WITHDRAW, 3, *_keys(contributor), contributor, GROUP)))

    def withdrawn(self) -> set[str]:
        found = self.asked(lambda: self.client.smembers(WITHDRAWN))
        return {one.decode(errors="replace") for one in found}

    def waiting(self) -> int:
        """Turns whose rows are not safe yet."""
        return int(self.asked(lambda: self.client.xlen(TURNS)))

    def close(self) -> None:
        self.client.close()


def _keys(contributor: str) -> tuple[str, str, str]:
    return TURNS, SENT + contributor, WITHDRAWN


def _as_flac(sound: bytes) -> bytes:
    """The same samples: sessions keep 16 bit. Raises InputError."""
    try:
        samples, rate = soundfile.read(io.BytesIO(sound), dtype="int16")
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"not sound that can be sent ({one_line(error)})") from None
    return file.getvalue()


def flush(spool: Spool, stream: TurnStream) -> int:
    """Send what waits in the spool for this stream; how many it had not. What is not sent stays.

    Raises EngineUnavailable, EngineFailed, OSError.
    """
    sent = 0
    for entry in spool.entries():
        try:
            letter = spool.letter(entry)
            if letter.place != stream.place:
                continue
            answer = stream.add(letter, spool.contents(entry)[1])
        except (
            FileNotFoundError,
            InputError,
        ):  # another process took it; or it is damaged, and stays where it can be seen
            continue
        if answer == "full":
            raise EngineUnavailable(f"the stream at {stream.place} is full ({MAX_WAITING} turns wait there)")
        spool.remove([entry])
        sent += answer == "sent"
    return sent
