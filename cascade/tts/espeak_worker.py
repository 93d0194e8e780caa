"""eSpeak NG in a process of its own: JSON lines in, a JSON line and 16-bit PCM out.

Run as a script, it imports nothing of Attune, so that a crash of the C library, and its GPL-3.0 licence, stay outside.

Request   {"text", "voice", "rate_wpm" 80..450, "pitch" 0..99, "pitch_range" 0..99, "amplitude" 0..200}
Response  {"bytes", "sample_rate", "words": [[text, start_s], ...]} and then that many bytes; or {"error"}
Library: espeak-ng/src/include/espeak-ng/speak_lib.h, version 1.52.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from ctypes import POINTER, Structure, Union, c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_void_p
from typing import IO, Any

import espeakng_loader

AUDIO_OUTPUT_SYNCHRONOUS = 2
POS_CHARACTER, CHARS_UTF8 = 1, 1
RATE, VOLUME, PITCH, PITCH_RANGE = 1, 2, 3, 4  # espeak_PARAMETER
EVENT_END_OF_LIST, EVENT_WORD = 0, 1
SEED = 1


class _EventId(Union):
    _fields_ = [("number", c_int), ("name", c_char_p), ("string", ctypes.c_char * 8)]


class _Event(Structure):
    _fields_ = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),  # 1-based, in characters
        ("length", c_int),
        ("audio_position", c_int),  # milliseconds
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


class Espeak:
    """The library, initialised once. Not thread-safe: one process, one caller."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        data = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate = int(self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0))
        if self.sample_rate <= 0:
            raise RuntimeError("espeak-ng cannot read its voice data")
        # Breath and flutter are drawn at random, by default from the clock.
        self._library.espeak_ng_SetRandSeed(c_long(SEED))
        self._pcm = bytearray()
        self._marks: list[tuple[int, int, int]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pcm += ctypes.string_at(samples, count * 2)
        index = 0
        while events and events[index].type != EVENT_END_OF_LIST:
            event = events[index]
            if event.type == EVENT_WORD:
                self._marks.append((event.text_position, event.length, event.audio_position))
            index += 1
        return 0

    def say(self, request: dict[str, Any]) -> tuple[bytes, list[tuple[str, float]]]:
        if self._library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {request['voice']!r}")
        for parameter, key in (
            (RATE, "rate_wpm"),
            (VOLUME, "amplitude"),
            (PITCH, "pitch"),
            (PITCH_RANGE, "pitch_range"),
        ):
            self._library.espeak_SetParameter(parameter, int(request[key]), 0)
        self._pcm, self._marks = bytearray(), []
        text = request["text"]
        encoded = text.encode() + b"\0"
        status = self._library.espeak_Synth(
            encoded, c_size_t(len(encoded)), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None
        )
        if status != 0:
            raise RuntimeError(f"espeak-ng failed with status {status}")
        self._library.espeak_Synchronize()
        words = [(text[start - 1 : start - 1 + length], at_ms / 1000) for start, length, at_ms in self._marks]
        return bytes(self._pcm), words


def serve(requests: IO[bytes], responses: IO[bytes]) -> None:
    """Answer until the requests end, each request in a forked child.

    The library's flutter, breath and dither go on from where the last sentence left them; a child begins every time from
    the same state, so the same request gives the same samples. (It takes a millisecond.)
    """
    espeak = Espeak()
    for line in requests:
        child = os.fork()
        if child == 0:
            answer(espeak, line, responses)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"espeak-ng crashed (status {status})")


def answer(espeak: Espeak, line: bytes, responses: IO[bytes]) -> None:
    try:
        pcm, words = espeak.say(json.loads(line))
        header: dict[str, Any] = {"bytes": len(pcm), "sample_rate": espeak.sample_rate, "words": words}
    except Exception as error:  # whatever it was, the caller must hear of it: this process has no other voice
        pcm, header = b"", {"error": f"{type(error).__name__}: {error}"}
    responses.write(json.dumps(header).encode() + b"\n" + pcm)
    responses.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
