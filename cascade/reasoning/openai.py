"""A language model behind an OpenAI-compatible endpoint: vLLM, Ollama, the llama.cpp server, or a service.

The reading waits in a thread of its own, so that a server that says nothing can be left at once: its connection is then shut,
which tells the server to stop, too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cascade.cancel import CancelScope
from cascade.engines import Message
from cascade.errors import AttuneError, EngineFailed, EngineTimeout, EngineUnavailable, one_line
from cascade.needs import Need, extra, package
from cascade.reasoning.answer import CLOSE, OPEN
from cascade.reasoning.dialogue import DialogueOptions, LanguageModelReasoner, PromptTooLong
from cascade.turn import EngineInfo, Token, TokenChoice

ENGINE = "openai"
KNOCK_S = 0.5  # how long a check waits for a connection
POLL_S = 0.02  # how often a waiting caller looks whether it was stopped
_END = object()


class Options(DialogueOptions):
    """base_url: of the server, with its /v1. model: as the server names it. api_key_env: the environment variable with the key.

    timeout_s: the longest silence, before the first token or between two. logprobs: ask for them (with top_logprobs).
    extra_body: fields of the server's own, such as those that keep a model from thinking for itself, which costs time:
    {reasoning_effort = "none"} for Ollama, {chat_template_kwargs = {enable_thinking = false}} for vLLM and llama.cpp.
    """

    base_url: str = "http://localhost:8000/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(default=30.0, gt=0)
    connect_timeout_s: float = Field(default=3.0, gt=0)
    logprobs: bool = False
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        parts = urlsplit(url)
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("the port is a number from 0 to 65535, as in http://localhost:8000/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give a URL such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("a URL without a key in it; the key belongs in the environment, see api_key_env")
        return url.rstrip("/")


class EndpointModel:
    """A LanguageModel. Nothing is retried: the turn's deadline is short, and the person waits."""

    def __init__(self, options: Options) -> None:
        from openai import OpenAI  # noqa: F401 (a missing package is told at load)

        if not options.model:
            raise EngineUnavailable(_no_model(options))
        self._options = options
        shown = options.model_dump(mode="json", exclude_defaults=True)
        self.info = EngineInfo(
            name=ENGINE,
            version=version("openai"),
            options={**shown, "model": options.model, "base_url": options.base_url},
        )

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        top_logprobs: int,
        cancel: CancelScope,
    ) -> Iterator[Token]:
        """Raises EngineUnavailable (nobody answers, key or model refused), EngineTimeout, EngineFailed, Cancelled."""
        cancel.check()
        request: dict[str, Any] = {
            "model": self._options.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
        }
        if self._options.logprobs:
            request |= {"logprobs": True} | ({"top_logprobs": top_logprobs} if top_logprobs else {})
        if self._options.extra_body:
            request["extra_body"] = self._options.extra_body
        exchange = _Exchange(self._options, request)
        threading.Thread(target=exchange.run, name="attune-endpoint", daemon=True).start()
        try:
            yield from self._tokens(exchange, cancel)
        finally:
            exchange.leave()

    def _tokens(self, exchange: _Exchange, cancel: CancelScope) -> Iterator[Token]:
        reading = _Reading()
        while (item := self._item(exchange, cancel)) is not _END:
            if isinstance(item, BaseException):
                raise _as_engine_error(item, self._options) from item
            try:
                tokens = list(reading.tokens(item))
            except (TypeError, AttributeError, LookupError, ValueError) as error:  # JSON, but no chunk of a chat
                raise _as_engine_error(error, self._options) from error
            yield from tokens
        if not reading.said:
            raise EngineFailed(
                f"{self._options.base_url}: the answer was empty or no event stream; is this an OpenAI endpoint?"
            )
        if not reading.finished:
            raise EngineFailed(f"{self._options.base_url}: the answer broke off; look at the server's log")

    def _item(self, exchange: _Exchange, cancel: CancelScope) -> Any:
        """The next thing the thread put down. Raises Cancelled, EngineTimeout."""
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            cancel.check()
            with contextlib.suppress(queue.Empty):
                return exchange.items.get(timeout=POLL_S)
            if time.monotonic() > deadline:
                raise EngineTimeout(_silent(self._options))


@dataclass
class _Exchange:
    """One request, and the thread that waits for what comes of it."""

    options: Options
    request: dict[str, Any]
    items: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)  # chunks, then an exception or _END
    _left: bool = False
    _sockets: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        try:
            with self._client() as client:
                for chunk in client.chat.completions.create(**self.request):
                    self.items.put(chunk)
                    if self._left:
                        return
            self.items.put(_END)
        except BaseException as error:
            self.items.put(error)

    def leave(self) -> None:
        """Shut the connection: a read that waits on it ends, and the server sees that nobody listens."""
        with self._lock:
            self._left = True
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _client(self) -> Any:
        """A client for this request alone, so that its connection can be shut without harm to another."""
        import openai

        limits = openai.Timeout(self.options.timeout_s, connect=self.options.connect_timeout_s)
        # Reading the certificates takes 40 ms; a context without any trusts nobody, should a plain server send us elsewhere.
        encrypted = self.options.base_url.startswith("https:")
        plain = {} if encrypted else {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
        http: Any = getattr(openai, "DefaultHttpx2Client", openai.DefaultHttpxClient)
        return openai.OpenAI(
            base_url=self.options.base_url,
            api_key=os.environ.get(self.options.api_key_env) or "none",
            timeout=limits,
            max_retries=0,
            http_client=http(timeout=limits, event_hooks={"request": [self._watch]}, **plain),
        )

    def _watch(self, request: Any) -> None:
        request.extensions = {**request.extensions, "trace": self._note}

    def _note(self, event: str, details: dict[str, Any]) -> None:
        """Keeps the socket of a connection as soon as it is made."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        connection = details["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets.append(connection)
            if self._left:
                connection.shutdown(socket.SHUT_RDWR)


class _Reading:
    """Chunks as tokens.

    Some servers take everything between think marks out of the text and send it apart. That is this answer's own thought, put
    back between its marks, unless the text has one: then it was the model's habit of thinking, which is nobody's evidence.
    """

    def __init__(self) -> None:
        self.said = self.finished = False
        self._apart = ""  # what the server sent apart
        self._begun: (
            list[Token] | None
        ) = []  # the text's first tokens, until they tell whether it has a thought; then None

    def tokens(self, chunk: Any) -> Iterator[Token]:
        choice = chunk.choices[0] if getattr(chunk, "choices", None) else None
        if choice is None:
            return
        delta = choice.delta
        apart = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) if delta else None
        text = delta.content if delta else None
        self.said = self.said or bool(apart or text)
        self._apart += apart or ""
        for token in _with_logprobs(text, getattr(choice, "logprobs", None)) if text else ():
            yield from self._ordered(token)
        if choice.finish_reason:
            self.finished = True
            yield from self._opened()

    def _ordered(self, token: Token) -> Iterator[Token]:
        if self._begun is None:
            yield token
            return
        self._begun.append(token)
        start = "".join(held.text for held in self._begun).lstrip()
        if not OPEN.startswith(start):
            yield from self._opened()

    def _opened(self) -> Iterator[Token]:
        """What was held back, the thought before it; nothing if that was done."""
        held, self._begun = self._begun, None
        if held is None:
            return
        text = "".join(token.text for token in held)
        if self._apart and not text.lstrip().startswith(OPEN):
            yield Token(text=f"{OPEN}{self._apart}{CLOSE}")
        yield from held


def _with_logprobs(text: str, logprobs: Any) -> Iterator[Token]:
    """A chunk's text, token by token where the server tells them and they make up the text."""
    told = getattr(logprobs, "content", None) or []
    if "".join(item.token for item in told) != text:
        yield Token(text=text)
        return
    for item in told:
        top = tuple(TokenChoice(text=other.token, logprob=other.logprob) for other in item.top_logprobs or ())
        yield Token(text=item.token, logprob=item.logprob, top=top)


def _as_engine_error(error: BaseException, options: Options) -> AttuneError:
    """What went wrong, with the URL and what to do."""
    import openai

    url, why = options.base_url, one_line(error, 160)
    if isinstance(error, openai.APIStatusError):
        return _refused(error.status_code, why, options)
    name, cause = type(error).__name__, error.__cause__ or error
    if "ConnectTimeout" in (name, type(cause).__name__):
        return EngineUnavailable(f"{url}: no connection within {options.connect_timeout_s:g} s; {_START}")
    if "Timeout" in name:
        return EngineTimeout(_silent(options))
    if "ConnectError" in (name, type(cause).__name__):
        return EngineUnavailable(f"{url}: nobody answers there; {_START}")
    if isinstance(error, openai.APIConnectionError):
        return EngineFailed(f"{url}: the connection broke ({one_line(cause)}); look at the server's log")
    return EngineFailed(f"{url}: the answer cannot be read ({why}); is this an OpenAI endpoint?")


_START = "start the server, or mend base_url"


def _silent(options: Options) -> str:
    return f"{options.base_url}: no token within {options.timeout_s:g} s; it is slow or hangs: raise timeout_s or restart it"


def _refused(status: int, why: str, options: Options) -> AttuneError:
    url = options.base_url
    if status in (401, 403):
        return EngineUnavailable(
            f"{url}: the key was refused ({status}); put it into the environment as {options.api_key_env}"
        )
    if status == 404:
        return EngineUnavailable(
            f"{url}: 404, no model {options.model!r} or no such path; {url}/models lists the models"
        )
    if status in (400, 413, 422) and "context" in why.lower():
        return PromptTooLong(f"{url}: the request is longer than the model's context ({why}); lower history_turns")
    return EngineFailed(f"{url}: the server answered {status} ({why}); look at its log")


def _no_model(options: Options) -> str:
    return f'model = "" names no model; give one that {options.base_url}/models lists'


def _knock(host: str, port: int, heard: Callable[[str | None], None]) -> None:
    try:
        with socket.create_connection((host, port), timeout=KNOCK_S):
            heard(None)
    except OSError as error:
        heard(error.strerror or str(error) or type(error).__name__)


def _unreachable(url: str) -> str | None:
    """Why nobody can be reached there; None if somebody can. Half a second at most, looking the name up included."""
    parts = urlsplit(url)
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    threading.Thread(target=_knock, args=(parts.hostname, port, answer.put), daemon=True).start()
    try:
        return answer.get(timeout=KNOCK_S)
    except queue.Empty:
        return f"no connection within {KNOCK_S:g} s"


def needs(options: Options) -> list[Need]:
    why = _unreachable(options.base_url)
    gap = f"nobody answers there ({why}); {_START}" if why else None
    return [
        package("openai", "openai", extra("openai")),
        Need("endpoint", options.base_url, gap or (None if options.model else _no_model(options))),
    ]


def language_model(options: Options) -> EndpointModel:
    """Raises EngineUnavailable: no model is named. That the server answers is seen when it is asked."""
    return EndpointModel(options)


def load(options: Options) -> LanguageModelReasoner:
    """Raises as `language_model`."""
    model = language_model(options)
    return LanguageModelReasoner(model.info, model, options)
