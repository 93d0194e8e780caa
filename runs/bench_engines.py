"""How fast the engines of the gpu profile are, measured here: `python runs/bench_engines.py batched` or `hot whisper quality`.

batched  Whisper on many clips: batches against one clip after the other, side by side and in turn. `turns` hears each as a turn
         of conversation, and reads on behind its last word, which takes a random model long; `batches_of_1` does what a batch
         does, one by one: compare with that
hot      the share of a stage's seconds, as the graph counts them, that the engine's library spends in calls of its own: the rest
         is Attune. Networks have the published sizes, or fewer layers for a CPU's sake. transformers: its language model's
         stream of 60 tokens alone, for a random model writes no answer of the right form

Each prints one line of JSON. Without --model a Whisper of random weights is made: its words are garbage, its timing is that of a
trained one of its size that writes as many tokens (--max-new-tokens for each clip; a random model never ends by itself).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from clock import Calls, Clock

from cascade.allocator import keep_freed_memory
from cascade.asr import faster_whisper as whisper
from cascade.audio import Waveform
from cascade.cancel import CancelScope
from cascade.engines import Prompt
from cascade.tts import espeak
from cascade.turn import Cues, Stage, Transcript
from graphs.stages import StageRunner

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # where the makers of random checkpoints are

SAID = (
    "I got the job.",
    "My boss wants to talk to me tomorrow, and I cannot sleep.",
    "We are moving to a new city.",
    "My sister is coming to visit us, after all these years.",
    "The doctor called me this morning.",
    "I have an exam next week.",
    "My daughter is getting married.",
    "They are building a road behind our house, and nobody asked us.",
)
ANSWER_TOKENS = 60
STAGE_DEADLINE_S = 600.0


class Clip(NamedTuple):
    text: str
    wave: Waveform  # at 16 kHz


Work = Callable[[Clip, CancelScope], object]


@dataclass(frozen=True)
class Hot:
    """One engine. `load` gives its work on one clip; `calls`: the functions of its library that do the work."""

    stage: Stage
    load: Callable[[argparse.Namespace, Path], Work]
    calls: Callable[[], Calls]


def load_whisper(asked: argparse.Namespace, folder: Path) -> whisper.FasterWhisper:
    model = asked.model
    if model is None:
        model = import_module("checkpoints.whisper").make_whisper(
            folder / "whisper", d_model=asked.d_model, layers=asked.layers
        )
    return whisper.load(
        whisper.Options(
            model=str(Path(model).absolute()),
            device=asked.device,
            compute_type=asked.compute_type,
            language=asked.language,
            beam_size=asked.beam_size,
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            cpu_threads=asked.threads,
        )
    )


def whisper_work(asked: argparse.Namespace, folder: Path) -> Work:
    engine = load_whisper(asked, folder)
    return lambda clip, cancel: engine.transcribe(clip.wave, cancel=cancel)


def whisper_calls() -> Calls:
    import ctranslate2
    from faster_whisper import BatchedInferencePipeline, WhisperModel, vad
    from faster_whisper.feature_extractor import FeatureExtractor

    native = ctranslate2.models.Whisper
    return [
        (WhisperModel, "transcribe"),
        (WhisperModel, "encode"),
        (BatchedInferencePipeline, "transcribe"),
        (FeatureExtractor, "__call__"),
        (vad, "get_speech_timestamps"),
        (native, "detect_language"),
    ]


def quality_work(asked: argparse.Namespace, folder: Path) -> Work:
    from cascade.judging.quality import SpeechQuality

    judge = SpeechQuality(threads=asked.threads)
    return lambda clip, cancel: judge.score(clip.wave, cancel)


def quality_calls() -> Calls:
    import onnxruntime

    return [(onnxruntime.InferenceSession, "run")]


def emotion2vec_work(asked: argparse.Namespace, folder: Path) -> Work:
    """Base: about 90 million parameters."""
    from cascade.paralinguistics.emotion2vec import Options, load

    made = import_module("checkpoints.emotion2vec")
    model = made.make_emotion2vec(folder / "emotion2vec", sizes=made.BASE, audio_sizes=made.BASE_AUDIO)
    return analyzed(load(Options(model=str(model), device=asked.device)))


def emotion2vec_calls() -> Calls:
    from funasr import AutoModel

    return [(AutoModel, "generate")]


def wav2vec2_work(asked: argparse.Namespace, folder: Path) -> Work:
    """As the published one of 6 layers."""
    from cascade.paralinguistics.wav2vec2 import Options, load

    made = import_module("checkpoints.age_gender")
    model = made.make_age_gender(folder / "age_gender", **made.PUBLISHED)
    return analyzed(load(Options(model=str(model), device=asked.device)))


def wav2vec2_calls() -> Calls:
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    return [(Wav2Vec2Model, "forward"), (Wav2Vec2FeatureExtractor, "__call__")]


def audio_tagger_work(asked: argparse.Namespace, folder: Path) -> Work:
    """AST as published, which takes every window for one of 10 s. Of its labels there are but a few."""
    from cascade.paralinguistics.audio_tagger import Options, load

    made = import_module("checkpoints.audio_tagger")
    model = made.make_audio_tagger(folder / "audio_tagger", **made.PUBLISHED)
    return analyzed(load(Options(model=str(model), device=asked.device, hop_s=2.0)))


def audio_tagger_calls() -> Calls:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    return [(ASTForAudioClassification, "forward"), (ASTFeatureExtractor, "__call__")]


def analyzed(engine: Any) -> Work:
    return lambda clip, cancel: engine.analyze(clip.wave, baseline=None, cancel=cancel)


def transformers_work(asked: argparse.Namespace, folder: Path) -> Work:
    """8 of the 28 layers of Qwen3-0.6B, and as large a vocabulary."""
    from cascade.reasoning.prompting import messages
    from cascade.reasoning.transformers import Options, language_model

    prompts = {text: Prompt(Transcript(text=text, engine="none"), Cues()) for text in SAID}
    requests = {text: messages(it, form="both", tool_steps=2, history_turns=8) for text, it in prompts.items()}
    made, texts = import_module("checkpoints.llm"), [message.content for it in requests.values() for message in it]
    model = made.make_random_llm(folder / "llm", texts=texts, **{**made.QWEN3, "num_hidden_layers": 8})
    engine = language_model(Options(model=str(model), device=asked.device))
    writing = partial(engine.stream, max_tokens=ANSWER_TOKENS, temperature=0.7, seed=0, top_logprobs=0)
    return lambda clip, cancel: list(writing(requests[clip.text], cancel=cancel))


def transformers_calls() -> Calls:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
    from transformers.generation import logits_process

    warpers = [getattr(logits_process, f"{name}LogitsWarper") for name in ("Temperature", "TopK", "TopP")]
    return [
        (Qwen3ForCausalLM, "forward"),
        (PreTrainedTokenizerFast, "apply_chat_template"),
        (PreTrainedTokenizerFast, "decode"),
        *((warper, "__call__") for warper in warpers),
    ]


def f5_work(asked: argparse.Namespace, folder: Path) -> Work:
    """Half of the published width, 8 of its 22 layers, and 8 steps; the vocoder whole. The clip is 2 to 3 s long."""
    from cascade.tts.f5 import Options, load

    made = import_module("checkpoints.f5")
    model = made.make_f5(folder / "f5", arch=made.HALF_BASE, vocos=made.PUBLISHED_VOCOS)
    said = clips(2)[1]
    bank = made.make_bank(folder / "bank", {"neutral": (said.wave, said.text)})
    engine = load(
        Options(model=str(model), vocoder=str(model / "vocos"), voices=str(bank), device=asked.device, nfe_steps=8)
    )
    return lambda clip, cancel: engine.speak(
        clip.text, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=cancel
    )


def f5_calls() -> Calls:
    from cascade.tts.f5_library import library

    return [(library().CFM, "sample"), (library().Vocos, "decode")]


HOT = {
    "whisper": Hot("asr", whisper_work, whisper_calls),
    "emotion2vec": Hot("emotion", emotion2vec_work, emotion2vec_calls),
    "wav2vec2": Hot("speaker", wav2vec2_work, wav2vec2_calls),
    "audio_tagger": Hot("events", audio_tagger_work, audio_tagger_calls),
    "transformers": Hot("reasoning", transformers_work, transformers_calls),
    "f5": Hot("tts", f5_work, f5_calls),
    "quality": Hot("judging", quality_work, quality_calls),
}


def clips(count: int) -> list[Clip]:
    voice = espeak.load(espeak.Options())
    spoken = [
        Clip(text, voice.speak(text, emotion="neutral", intensity=0.7, rate=1.0, seed=0, cancel=CancelScope()).wave)
        for text in SAID[:count]
    ]
    voice.close()
    return [Clip(one.text, one.wave.resampled(16_000)) for one in islice(cycle(spoken), count)]


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def batched(asked: argparse.Namespace, folder: Path) -> None:
    """Both ways hear the same clips in each round, and take turns in being first."""
    engine, waves = load_whisper(asked, folder), [clip.wave for clip in clips(asked.clips)]
    ways: dict[str, Callable[[], object]] = {
        "turns": lambda: [engine.transcribe(wave, cancel=CancelScope()) for wave in waves],
        "batches_of_1": lambda: [engine.transcribe_many([wave], cancel=CancelScope()) for wave in waves],
        "batched": lambda: engine.transcribe_many(waves, cancel=CancelScope()),
    }
    engine.transcribe_many(waves, cancel=CancelScope())
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(asked.rounds):
        for name in (list(ways), list(reversed(ways)))[number % 2]:
            took[name].append(seconds_of(ways[name]))
    middle = {name: median(times) for name, times in took.items()}
    found = {
        "measured": "batched",
        "engine": engine.info.model_dump(mode="json"),
        "weights": "given"
        if asked.model
        else f"random, d_model {asked.d_model}, {asked.layers} + {asked.layers} layers",
        "clips": len(waves),
        "audio_s": round(sum(wave.duration_s for wave in waves), 1),
        "rounds": asked.rounds,
        "seconds": {name: [round(value, 3) for value in times] for name, times in took.items()},
        "times_as_fast_as_turns": round(middle["turns"] / middle["batched"], 3),
        "times_as_fast_as_batches_of_1": round(middle["batches_of_1"] / middle["batched"], 3),
    }
    print(json.dumps(found), flush=True)


def staged(stage: Stage, work: Work, clip: Clip) -> float:
    """The seconds of one stage of a turn, as the graph runs it and counts them."""
    outcome = asyncio.run(
        StageRunner().run(stage, partial(work, clip), deadline_s=STAGE_DEADLINE_S, cancel=CancelScope())
    )
    if outcome.failure:
        raise SystemExit(f"{stage}: {outcome.failure.message}")
    return outcome.seconds


def hot(asked: argparse.Namespace, folder: Path) -> None:
    said = clips(asked.clips)
    for name in asked.engines:
        engine = HOT[name]
        work = engine.load(asked, folder)
        staged(engine.stage, work, said[0])
        shares, took, clock = [], [], Clock()
        with clock.patched(engine.calls()):
            for clip in said * asked.rounds:
                clock.seconds = 0.0
                took.append(staged(engine.stage, work, clip))
                shares.append(clock.seconds / took[-1])
        found = {
            "measured": "hot",
            "engine": name,
            "stage": engine.stage,
            "made": engine.load.__doc__,
            "calls": len(took),
            "median_s": round(median(took), 4),
            "share_in_library": round(median(shares), 4),
            "least_share": round(min(shares), 4),
        }
        print(json.dumps(found), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["batched", "hot"])
    parser.add_argument("engines", nargs="*", help=f"for hot: {', '.join(HOT)}; none: all")
    parser.add_argument("--model", type=Path, help="folder of a Whisper of CTranslate2's; none: random weights")
    parser.add_argument("--d-model", type=int, default=512, help="of random weights (512: whisper-base)")
    parser.add_argument("--layers", type=int, default=6, help="of random weights, encoder and decoder each")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--compute-type", default="auto")
    parser.add_argument("--language", default="en", help="so that no time goes into detecting it")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument(
        "--usual-malloc", action="store_true", help="leave the allocator as it is, to see what it costs"
    )
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if unknown := sorted(set(asked.engines) - set(HOT)):
        parser.error(f"{', '.join(unknown)}: no such engine; legal: {', '.join(HOT)}")
    asked.engines = asked.engines or list(HOT)
    return asked


if __name__ == "__main__":
    asked = arguments()
    if not asked.usual_malloc:
        keep_freed_memory()  # as the program does for Whisper on a CPU
    with tempfile.TemporaryDirectory() as folder:
        {"batched": batched, "hot": hot}[asked.command](asked, Path(folder))
