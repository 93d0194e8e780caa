"""A language model behind an endpoint: real HTTP on this machine, and every way in which a server can fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from checkpoints.server import serving
from fakes import heard, sad
from pydantic import ValidationError

from cascade.cancel import CancelScope
from cascade.engines import Message, Prompt, load_engine, needs
from cascade.errors import Cancelled, EngineError, EngineFailed, EngineTimeout, EngineUnavailable
from cascade.reasoning import openai
from cascade.reasoning.dialogue import PromptTooLong
from cascade.reasoning.openai import Options
from cascade.turn import Reply, Thought, Token

HELLO = [Message("system", "be kind"), Message("user", "hello")]


class Server(ThreadingHTTPServer):
    """Does with each request what `act` says; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.act: Callable[[Handler], None] = lambda handler: handler.say("Hello there.")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = threading.Event()  # the client has gone

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: Any) -> None:
        self.left.set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.keys.append(self.headers["Authorization"])
        self.server.act(self)

    def begin(self, status: int = 200, kind: str = "text/event-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def chunk(self, content: str | None, finish: str | None = None, logprobs: Any = None, **delta: Any) -> None:
        choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish, "logprobs": logprobs}
        body = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.raw(f"data: {json.dumps(body)}\n\n")

    def raw(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def say(self, *pieces: str) -> None:
        self.begin()
        for piece in pieces:
            self.chunk(piece)
        self.chunk(None, "stop")
        self.raw("data: [DONE]\n\n")

    def refuse(self, status: int, message: str) -> None:
        self.begin(status, "application/json")
        self.raw(json.dumps({"error": {"message": message, "type": "x", "code": status}}))

    def wait_until_left(self) -> None:
        """Say nothing until the client closes the connection."""
        self.connection.settimeout(10)
        if self.connection.recv(1) == b"":
            self.server.left.set()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def write(url: str, *, cancel: CancelScope | None = None, top: int = 0, **options: Any) -> list[Token]:
    model = openai.language_model(Options(base_url=url, model="m", **options))
    stream = model.stream(
        HELLO, max_tokens=20, temperature=0.5, seed=7, top_logprobs=top, cancel=cancel or CancelScope()
    )
    return list(stream)


def test_a_whole_answer() -> None:
    with serving() as url:
        engine = load_engine("reasoning", "openai", {"base_url": url, "model": "m"})
        thought, *lines, reply = engine.respond(Prompt(heard("i lost my job"), sad()), cancel=CancelScope())
    assert isinstance(thought, Thought)
    assert thought.emotion == "sad"
    assert lines == ["That is a lot to carry.", "What happened yesterday?"]
    assert isinstance(reply, Reply)
    assert engine.info.options == {"base_url": url, "model": "m"}


def test_what_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    write(server.url, api_key_env="MY_KEY", extra_body=extra, top=3)
    assert server.asked[0] == {
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
        "max_tokens": 20,
        "temperature": 0.5,
        "seed": 7,
        "stream": True,
        **extra,
    }
    assert server.keys[0] == "Bearer secret"
    monkeypatch.delenv("MY_KEY")
    write(server.url, api_key_env="MY_KEY")
    assert server.keys[1] == "Bearer none"


def test_the_key_is_not_in_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    model = openai.language_model(Options(model="m"))
    assert "secret" not in repr(model.info)
    with pytest.raises(ValidationError, match="belongs in the environment"):
        Options(base_url="http://me:secret@localhost/v1")
    with pytest.raises(ValidationError, match="give a URL"):
        Options(base_url="localhost:8000")
    for port in ("99999", "v1"):
        with pytest.raises(ValidationError, match="the port is a number"):
            Options(base_url=f"http://localhost:{port}/v1")


def test_text_comes_as_it_is_written(server: Server) -> None:
    go_on = threading.Event()

    def act(handler: Handler) -> None:
        handler.begin()
        handler.chunk("Hello")
        go_on.wait(5)
        handler.chunk(" there.", "stop")

    server.act = act
    model = openai.language_model(Options(base_url=server.url, model="m"))
    stream = model.stream(HELLO, max_tokens=9, temperature=0, seed=0, top_logprobs=0, cancel=CancelScope())
    assert next(stream).text == "Hello"
    go_on.set()
    assert [token.text for token in stream] == [" there."]


def test_log_probabilities_where_the_server_tells_them(server: Server) -> None:
    def told(text: str, logprob: float) -> dict[str, Any]:
        other = {"token": "Oh", "logprob": -2.0, "bytes": None}
        return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": [other]}

    def act(handler: Handler) -> None:
        handler.begin()
        handler.chunk("Hello there", logprobs={"content": [told("Hello", -0.5), told(" there", -1.0)]})
        handler.chunk("🎉", logprobs={"content": [told("?", -1.0)]})  # halves of a character: not this text
        handler.chunk(".", "stop")

    server.act = act
    tokens = write(server.url, logprobs=True, top=1)
    assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, 1)
    assert [(token.text, token.logprob) for token in tokens] == [
        ("Hello", -0.5),
        (" there", -1.0),
        ("🎉", None),
        (".", None),
    ]
    assert (tokens[0].top[0].text, tokens[0].top[0].logprob, tokens[0].top[0].id) == ("Oh", -2.0, None)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_taken_out_by_the_server_is_put_back(server: Server, field: str) -> None:
    def act(handler: Handler) -> None:
        handler.begin()
        handler.chunk(None, **{field: "Be"})
        handler.chunk(None, **{field: "cause."})
        handler.chunk("Hello.", "stop")

    server.act = act
    assert "".join(token.text for token in write(server.url)) == "<think>Because.</think>Hello."


def test_a_model_that_also_thinks_by_habit_has_only_its_asked_thought_read(server: Server) -> None:
    def act(handler: Handler) -> None:
        handler.begin()
        handler.chunk(None, reasoning="Okay, the user lost")
        handler.chunk(None, reasoning=" a job.")
        for piece in ("\n", "<th", "ink>Because.</think>", "Hello."):
            handler.chunk(piece)
        handler.chunk("", "stop")

    server.act = act
    assert "".join(token.text for token in write(server.url)) == "\n<think>Because.</think>Hello."


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EngineUnavailable, match=f"{url}: nobody answers there; start the server"):
        write(url)
    with pytest.raises(EngineUnavailable, match="nobody answers there"):
        load_engine("reasoning", "openai", {"base_url": url, "model": "m"})


def broken_off(handler: Handler) -> None:
    handler.begin()
    handler.chunk("Hello")


def broken_json(handler: Handler) -> None:
    handler.begin()
    handler.raw("data: {no json\n\n")


def web_page(handler: Handler) -> None:
    handler.begin(kind="text/html")
    handler.raw("<html><body>Welcome to the router</body></html>")


def other_json(handler: Handler) -> None:
    handler.begin()
    handler.raw('data: [1, 2]\n\ndata: {"choices": 3}\n\n')


def error_inside(handler: Handler) -> None:
    handler.begin()
    handler.chunk("Hello")
    handler.raw('data: {"error": {"message": "the GPU fell off"}}\n\n')


def hung_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("act", "kind", "told"),
    [
        (lambda h: h.refuse(401, "bad key"), EngineUnavailable, "the key was refused .401.*OPENAI_API_KEY"),
        (lambda h: h.refuse(404, "no such model"), EngineUnavailable, "no model 'm' or no such path"),
        (lambda h: h.refuse(500, "broken"), EngineFailed, "answered 500"),
        (lambda h: h.refuse(429, "too many"), EngineFailed, "answered 429"),
        (lambda h: h.refuse(400, "maximum context length is 10"), PromptTooLong, "lower history_turns"),
        (lambda h: h.begin(502, "text/html"), EngineFailed, "answered 502"),
        (lambda h: h.say(), EngineFailed, "empty or no event stream"),
        (web_page, EngineFailed, "is this an OpenAI endpoint"),
        (broken_json, EngineFailed, "cannot be read.*is this an OpenAI endpoint"),
        (other_json, EngineFailed, "is this an OpenAI endpoint"),
        (broken_off, EngineFailed, "broke off"),
        (error_inside, EngineFailed, "the GPU fell off"),
        (hung_up, EngineFailed, "the connection broke"),
    ],
)
def test_a_server_that_fails_is_one_clear_line(
    server: Server, act: Callable[[Handler], None], kind: type[EngineError], told: str
) -> None:
    server.act = act
    with pytest.raises(kind, match=told) as failed:
        write(server.url)
    assert type(failed.value) is kind
    assert "\n" not in str(failed.value)
    assert server.url in str(failed.value)
    assert len(server.asked) == 1, "nothing is retried"


@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_falls_silent(server: Server, begun: bool) -> None:
    def act(handler: Handler) -> None:
        if begun:
            handler.begin()
            handler.chunk("Hello")
        handler.wait_until_left()

    server.act = act
    with pytest.raises(EngineTimeout, match=r"no token within 0\.3 s"):
        write(server.url, timeout_s=0.3)
    assert server.left.wait(5), "the server is told that nobody waits any more"


@pytest.mark.parametrize("begun", [False, True])
def test_stopped_while_the_server_is_silent(server: Server, begun: bool) -> None:
    scope, stopped_at = CancelScope(), []

    def stop() -> None:
        stopped_at.append(time.monotonic())
        scope.cancel()

    def act(handler: Handler) -> None:
        if begun:
            handler.begin()
            handler.chunk("Hello")
        threading.Timer(0.1, stop).start()
        handler.wait_until_left()

    server.act = act
    with pytest.raises(Cancelled):
        write(server.url, cancel=scope)
    assert time.monotonic() - stopped_at[0] < 1, "long before timeout_s"
    assert server.left.wait(5), "the server is told, too"
    with pytest.raises(Cancelled):
        write(server.url, cancel=scope)
    assert len(server.asked) == 1, "a stopped turn asks nobody"


def test_who_listens_no_longer_is_seen_by_the_server(server: Server) -> None:
    def act(handler: Handler) -> None:
        handler.begin()
        handler.chunk("Hello")
        handler.wait_until_left()

    server.act = act
    model = openai.language_model(Options(base_url=server.url, model="m"))
    stream = model.stream(HELLO, max_tokens=9, temperature=0, seed=0, top_logprobs=0, cancel=CancelScope())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert server.left.wait(5)


def test_what_it_needs(server: Server) -> None:
    package, endpoint = needs("reasoning", "openai", Options(base_url=server.url, model="m"))
    assert (package.kind, package.fix) == ("package", None)
    assert (endpoint.kind, endpoint.name, endpoint.fix) == ("endpoint", server.url, None)
    assert "names no model" in str(needs("reasoning", "openai", Options(base_url=server.url))[1].fix)
    with pytest.raises(EngineUnavailable, match="names no model"):
        openai.load(Options(base_url=server.url))
