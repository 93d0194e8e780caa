"""base and full on tiny random checkpoints of the real classes: built, run forward, answering, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.llm import make_random_llm
from students import (
    SENTENCES,
    SMALL_DECODER,
    SMALL_WHISPER,
    VECTOR,
    base,
    emotion_frames,
    fsq,
    full,
    make_mimi,
    make_whisper_encoder,
    nano,
    noise,
    tokenizer,
)
from torch import Tensor

from e2e_model import SpeechLM
from e2e_model.build import build, resolved
from e2e_model.codec import MimiCodec
from e2e_model.config import Config
from e2e_model.encoder import SpeechEncoder
from e2e_model.errors import CheckpointProblem, ConfigProblem
from e2e_model.features import floor_of, log_mel
from e2e_model.model import PARTS
from e2e_model.respond import Audio, End
from e2e_model.rows import gathered, spoken, written

CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module", params=[base, full], ids=["base", "full"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    made: SpeechLM = request.param(tmp_path_factory.mktemp("flavour"))
    return made


def mel_of(lm: SpeechLM, samples: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(log_mel(samples, mels=lm.config.mels))


def forward(lm: SpeechLM) -> Tensor:
    """All parts at once, as training asks them: logits of the talker and of its other codebooks, joined."""
    sounds = [noise(0.7), noise(0.3, seed=1)]
    frames = [torch.from_numpy(emotion_frames(sound)) for sound in sounds]
    heard, _, _, audio, lengths = lm.listen([mel_of(lm, sound) for sound in sounds], None, frames)
    assert heard.lengths == [35, 15]
    rows = [
        lm.prompter.row("speech→speech", "none", speech=length, reply=text)
        for length, text in zip(lengths, SENTENCES, strict=False)
    ]
    made = gathered(rows, lengths, [0, 1], 5)
    states = lm.thinker_states(made, audio)
    draw = np.random.default_rng(0)
    said = [
        spoken(
            lm.speller,
            row.ids[slice(*row.reply)],
            draw.integers(0, lm.talker.codebook_size, (lm.talker.codebooks, 9)),
            lm.config.talker,
            emotion=0,
            frame_rate=lm.codec.frame_rate,
        )
        for row in rows
    ]
    order = written(said, made.reply_at, read=lm.talker.read, end=lm.talker.end)
    hidden = lm.talker_states(order, states, lm.feel(states, made, 2), torch.tensor([True, False]))
    out = [lm.talker.logits(hidden[order.ask_at]).flatten(), lm.token_logits(states[made.ask_at]).flatten()]
    if lm.talker.depth is not None:
        firsts = lm.talker.codes(order.frames[:, 0])
        out += [
            book.flatten() for book in lm.talker.depth.logits(hidden[order.frame_from], firsts, order.frames[:, 1:])
        ]
    return torch.cat(out)


def test_they_are_built_of_the_real_classes(lm: SpeechLM) -> None:
    from transformers import Qwen3ForCausalLM
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    assert isinstance(lm.thinker, Qwen3ForCausalLM)
    assert isinstance(lm.encoder, WhisperEncoder)
    assert isinstance(lm.codec, MimiCodec)
    assert lm.config.mels == {"base": 80, "full": 128}[lm.config.flavour]
    assert lm.talker.codebooks == lm.codec.codebooks == 4


def test_every_part_has_its_share_in_what_comes_out(lm: SpeechLM) -> None:
    lm.zero_grad()
    forward(lm).square().sum().backward()  # type: ignore[no-untyped-call]
    for part in PARTS:
        trains = [(name, p.grad) for name, p in lm.part_parameters(part) if p.requires_grad]
        assert trains
        # Listening's own heads, and the layers' shares for them, tell nothing to the thinker.
        untouched = {name for name, grad in trains if grad is None or not grad.any()}
        assert all(name.startswith("heads.") or name == "encoder.mix" for name in untouched), untouched
    names = [name for name, p in lm.thinker.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)


def test_they_answer_and_come_back_from_a_folder(lm: SpeechLM, tmp_path: Path) -> None:
    events = list(lm.respond(noise(0.8), 16_000, speech_temperature=1.0))
    assert isinstance(events[-1], End)
    assert sum(len(event.samples) for event in events if isinstance(event, Audio)) % 1920 == 0
    lm.save_pretrained(tmp_path / "student", whole=False)
    again = SpeechLM.from_pretrained(tmp_path / "student", device="cpu")
    again.emotion_frames = lm.emotion_frames
    with torch.no_grad():
        assert torch.equal(forward(again), forward(lm))


def test_full_hears_through_the_emotion_encoder(sources: Path) -> None:
    lm = full(sources / "full")
    with torch.no_grad():
        mel = mel_of(lm, noise(0.5))
        frames = [torch.from_numpy(emotion_frames(noise(0.5, seed=k))) for k in range(2)]
        heard = [lm.listen([mel], None, [one])[3] for one in frames]
        assert (heard[0] - heard[1]).abs().max() > 1e-3
        shorter = lm.listen([mel], None, [frames[0][:-3]])[3]  # an emotion encoder may lose some at the end
        assert shorter.shape == heard[0].shape
        torch.testing.assert_close(shorter[:-2], heard[0][:-2])
    lm.emotion_frames = None
    with pytest.raises(ConfigProblem, match="a full student hears through emotion2vec, and got no frames of it"):
        list(lm.respond(noise(0.5), 16_000))


# The encoder.


def whisper(folder: Path, padded: bool, window_s: float = 30.0) -> tuple[Any, SpeechEncoder]:
    """transformers' own, and ours with its weights."""
    from transformers import WhisperModel

    theirs: Any = WhisperModel.from_pretrained(make_whisper_encoder(folder)).encoder.eval()  # type: ignore[no-untyped-call]
    config = type(theirs.config)(**theirs.config.to_diff_dict())
    ours = SpeechEncoder(config, window_s=window_s, padded=padded, jitter=False)
    ours.eval()  # type: ignore[no-untyped-call]
    ours.load_state_dict({**theirs.state_dict(), "mix": ours.mix.data})
    return theirs, ours


@pytest.mark.parametrize("padded", [True, False])
def test_thirty_seconds_are_whispers_own_states(tmp_path: Path, padded: bool) -> None:
    theirs, ours = whisper(tmp_path, padded)
    mel = torch.from_numpy(log_mel(noise(30.0)))
    assert mel.shape == (3000, 80)
    with torch.no_grad():
        wanted = theirs(mel.T[None]).last_hidden_state[0]
        torch.testing.assert_close(ours([mel]).states, wanted, **CLOSE)


def test_short_speech_is_filled_up_as_whisper_was_trained(tmp_path: Path) -> None:
    """As the log-mel of speech with silence behind it; what was filled up is left out again."""
    theirs, ours = whisper(tmp_path, True)
    mels = [torch.from_numpy(log_mel(noise(seconds, seed=k))) for k, seconds in enumerate((1.0, 2.53))]
    with torch.no_grad():
        heard = ours(mels)
        assert heard.lengths == [50, 127]
        for mel, states in zip(mels, heard.states.split(heard.lengths), strict=True):
            filled = torch.full((3000, 80), float(floor_of(mel)))
            filled[: len(mel)] = mel
            wanted = theirs(filled.T[None]).last_hidden_state[0, : len(states)]
            torch.testing.assert_close(states, wanted, **CLOSE)
    silence = np.concatenate([noise(1.0), np.zeros(16_000, np.float32)])
    assert log_mel(silence)[-50:].min() == pytest.approx(float(floor_of(log_mel(silence))), abs=1e-5)


@pytest.mark.parametrize("padded", [True, False])
def test_long_speech_is_read_window_by_window(tmp_path: Path, padded: bool) -> None:
    _, ours = whisper(tmp_path, padded, window_s=2.0)
    mel = torch.from_numpy(log_mel(noise(5.3)))
    assert len(mel) == 530
    other = torch.from_numpy(log_mel(noise(0.4, seed=1)))
    with torch.no_grad():
        heard = ours([mel, other])
        parts = [ours([part]) for part in (mel[:200], mel[200:400], mel[400:], other)]
    assert heard.lengths == [100 + 100 + 65, 20] == [ours.states_of(530), ours.states_of(40)]
    torch.testing.assert_close(heard.states, torch.cat([part.states for part in parts]), **CLOSE)


def test_more_than_thirty_seconds_are_answered(sources: Path) -> None:
    lm = base(sources / "base")
    seconds = 31.5
    with torch.no_grad():
        heard, _, _, _, lengths = lm.listen([mel_of(lm, noise(seconds))])
    assert heard.lengths == [1575]
    assert lengths == [394]  # 12.5 a second, rounded up
    assert isinstance(list(lm.respond(noise(seconds), 16_000, task="asr"))[-1], End)


def fresh(*, stack: int = 1, window_s: float = 2.0, padded: bool = False, jitter: bool = False) -> SpeechEncoder:
    from transformers import WhisperConfig

    config = WhisperConfig(**SMALL_WHISPER, num_mel_bins=80 * stack)
    torch.manual_seed(0)
    made = SpeechEncoder(config, window_s=window_s, padded=padded, jitter=jitter, stack=stack)
    made.eval()  # type: ignore[no-untyped-call]
    return made


@pytest.mark.parametrize("stack", [1, 2])
def test_places_of_speech_in_training(stack: int) -> None:
    jittered, still = (fresh(stack=stack, window_s=30.0, jitter=jitter) for jitter in (True, False))
    room = 1500 - 50 // stack
    assert jittered.start_of(100, 0.0) == 0
    assert jittered.start_of(100, 0.999) == int(0.999 * room)
    most = 1500 - 1500 // stack
    assert jittered.start_of(3000, 0.5) == jittered.start_of(9000, 0.5) == most // 2
    assert still.start_of(100, 0.5) == 0


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("stack", [1, 2, 3])
def test_as_many_states_as_it_says(stack: int, padded: bool) -> None:
    encoder = fresh(stack=stack, padded=padded)
    frames = [1, 2, 3, 199, 200, 201, 399, 400, 401, 502]
    with torch.no_grad():
        heard = encoder([torch.randn(count, 80) for count in frames])
    assert heard.lengths == [encoder.states_of(count) for count in frames]
    assert heard.states.shape[0] == heard.mixed.shape[0] == sum(heard.lengths)
    for count, states in zip(frames, heard.lengths, strict=True):
        assert abs(states - count / (2 * stack)) <= 1 + count // 200
    assert encoder.states_of(0) == 0


@pytest.mark.parametrize("padded", [True, False])
def test_stacked_frames_are_read_as_one(padded: bool) -> None:
    encoder = fresh(stack=2, padded=padded)
    mel = torch.randn(61, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encoder([mel]).states
        assert whole.shape == (16, 32)  # ceil(61 / 2) frames, then half of them
        if not padded:  # the last frame, which has no other beside it, counts twice
            torch.testing.assert_close(encoder([torch.cat([mel, mel[-1:]])]).states, whole)
        changed = mel.clone()
        changed[1] += 1.0  # every frame counts
        assert (encoder([changed]).states - whole).abs().max() > 1e-3


# Building.


def test_seeds_make_students_and_leave_chance_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (nano(seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["talker.units.weight"], other["talker.units.weight"])


def test_pretrained_parts_are_those_of_their_sources(sources: Path) -> None:
    from transformers import Qwen3ForCausalLM, WhisperModel

    lm = base(sources / "base")
    thinker = Qwen3ForCausalLM.from_pretrained(sources / "base" / "qwen3").state_dict()
    ours = {name.replace(".base_layer", ""): tensor for name, tensor in lm.thinker.state_dict().items()}
    for name, tensor in thinker.items():
        assert torch.equal(ours[name], tensor), name
    whisper_ = WhisperModel.from_pretrained(sources / "base" / "whisper").encoder.state_dict()
    assert torch.equal(lm.encoder.state_dict()["conv1.weight"], whisper_["conv1.weight"])


def test_a_sources_sizes_are_written_in_even_where_they_are_the_default(tmp_path: Path) -> None:
    """Qwen3-0.6B has more rows of embeddings than its tokenizer has tokens: as many as Qwen3Config says by default."""
    folder = make_random_llm(tmp_path / "qwen3", hidden_size=8, vocab_size=151_936)
    config = Config.flavoured("nano").with_(thinker={"source": str(folder), "model": {}})
    assert resolved(config).thinker.model["vocab_size"] == 151_936
    whisper_ = make_whisper_encoder(tmp_path / "whisper")
    config = Config.flavoured("full").with_(encoder={"source": str(whisper_), "model": {}}, thinker={"source": None})
    assert resolved(config).mels == 80


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda there: {"codec": {"codebooks": 3}}, "the codec has 2 codebooks, the configuration asks for 3"),
        (lambda there: {"encoder": {"source": str(there), "model": {}}}, "no configuration of the encoder can be read"),
        (lambda there: {"thinker": {"source": str(there), "model": {}}}, "no configuration of the thinker can be read"),
        (
            lambda there: {"encoder": {"source": str(make_mimi(there / "m")), "model": {}}},
            "this is a mimi model, the encoder must be of whisper",
        ),
        (lambda there: {"thinker": {"model": {**SMALL_DECODER, "vocab_size": 50}}}, "the thinker knows 50 tokens"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Path], dict[str, Any]], said: str) -> None:
    config = nano().config.with_(**change(tmp_path))
    with pytest.raises((ConfigProblem, CheckpointProblem), match=said) as caught:
        build(config, fsq(), tokenizer())
    assert "\n" not in str(caught.value)


def test_a_thinker_from_zero_needs_a_tokenizer() -> None:
    with pytest.raises(ConfigProblem, match="a thinker from zero needs a tokenizer"):
        build(nano().config, fsq())


@pytest.mark.parametrize("gate", ["gate", "sum", "hidden"])
def test_how_state_and_text_become_one(gate: str) -> None:
    fusion = nano(talker={"gate": gate}).talker.fusion
    draw = torch.Generator().manual_seed(0)
    state, unit, vector = (torch.randn(3, width, generator=draw) for width in (32, 32, VECTOR))
    on = torch.tensor([True, False, True])

    def made(**changed: Tensor) -> Tensor:
        given = {"hidden": state, "unit": unit, "vector": vector, "vector_on": on, **changed}
        with torch.no_grad():
            return fusion(**given)  # type: ignore[no-any-return]

    projected = fusion.project(state)
    mixed = projected + unit if gate == "sum" else projected
    if fusion.gate is not None:
        share = torch.sigmoid(fusion.gate(torch.cat([projected, unit], -1)))
        mixed = share * projected + (1 - share) * unit
    scale, shift = torch.where(on[:, None], fusion.style(vector), fusion.no_style).chunk(2, -1)
    wanted = torch.nn.functional.layer_norm(mixed, (32,)) * (1 + scale) + shift
    torch.testing.assert_close(made(), wanted.detach())
    assert torch.equal(made(unit=-unit), made()) == (gate == "hidden")
    moved = (made(vector=-vector) - made()).abs().amax(-1)
    assert (moved > 0).tolist() == on.tolist()
