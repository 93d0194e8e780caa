"""An engine in a process of its own: a crash stays outside, a hang can be killed, a stopped turn costs nothing more.

Both ways a message is one JSON line, whose "bytes" says how many raw bytes follow it. A response with "error" is the engine's
own refusal. The worker's end is a script that reads requests from standard input until it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from cascade.cancel import CancelScope
from cascade.errors import Cancelled, EngineFailed, EngineTimeout

POLL_S = 0.02  # how often a waiting caller looks whether it was stopped
TRIES = 2  # a worker that died is started once more


class _Died(Exception):
    """Its message is the last line that the process wrote to standard error."""


class WorkerProcess:
    """One worker, shared by threads, one request at a time. Started when first asked, and again after it died."""

    def __init__(self, script: Path, arguments: Sequence[str] = (), *, name: str, timeout_s: float) -> None:
        self.name, self.timeout_s = name, timeout_s
        self._command = [sys.executable, "-P", str(script), *arguments]  # -P: its own folder must not shadow packages
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it now, so that the first request need not wait for its loading."""
        with self._lock:
            self._running()

    def ask(
        self, request: dict[str, Any], payload: bytes = b"", *, cancel: CancelScope
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request, wait for its response. Raises EngineFailed, EngineTimeout, Cancelled."""
        with self._lock:
            for _ in range(TRIES):
                try:
                    return self._answer({**request, "bytes": len(payload)}, payload, cancel)
                except _Died as death:
                    why = f": {death}" if str(death) else ""
        raise EngineFailed(f"the {self.name} process died {TRIES} times on one request{why}")

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _answer(self, request: dict[str, Any], payload: bytes, cancel: CancelScope) -> tuple[dict[str, Any], bytes]:
        process = self._running()
        try:
            header, body = self._exchange(process, json.dumps(request).encode() + b"\n" + payload, cancel)
        except (BrokenPipeError, _Died):
            raise _Died(self._kill()) from None
        except (Cancelled, EngineTimeout):
            self._kill()  # what it would still write belongs to nobody
            raise
        if "error" in header:
            raise EngineFailed(f"{self.name}: {header['error']}")
        return header, body

    def _exchange(
        self, process: subprocess.Popen[bytes], message: bytes, cancel: CancelScope
    ) -> tuple[dict[str, Any], bytes]:
        """Write and read as the pipes allow, never waiting for one alone: a process that hangs takes nothing, either."""
        assert process.stdin is not None
        assert process.stdout is not None
        unsent, buffer, header = memoryview(message), b"", None
        deadline = time.monotonic() + self.timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while header is None or len(buffer) < header.get("bytes", 0):
                cancel.check()
                if time.monotonic() > deadline:
                    raise EngineTimeout(f"{self.name} did not answer within {self.timeout_s:.0f} s")
                for key, _ in selector.select(POLL_S):
                    if key.fileobj is process.stdin:
                        unsent = unsent[os.write(key.fd, unsent) :]
                        if not unsent:
                            selector.unregister(process.stdin)
                    else:
                        buffer += _read(key.fd)
                if header is None and b"\n" in buffer:
                    line, buffer = buffer.split(b"\n", 1)
                    header = json.loads(line)
        return header, buffer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._kill()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the caller to handle
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _kill(self) -> str:
        """End it; the last line it wrote to standard error."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        assert self._errors is not None, "opened with the process"
        with self._errors as errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""


def _read(descriptor: int) -> bytes:
    piece = os.read(descriptor, 1 << 20)
    if not piece:
        raise _Died
    return piece
