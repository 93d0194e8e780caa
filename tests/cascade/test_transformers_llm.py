"""A language model run here: the real library on small checkpoints, from the request to the reply, and every way it can fail."""

from __future__ import annotations

import json
import math
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.llm import SENTENCES, WINDOW, make_llm, make_random_llm
from fakes import heard, sad

from cascade.cancel import CancelScope
from cascade.engines import Message, Prompt, load_engine
from cascade.errors import Cancelled, EngineFailed, EngineUnavailable, OutOfMemory
from cascade.reasoning import transformers
from cascade.reasoning.dialogue import LanguageModelReasoner, PromptTooLong
from cascade.reasoning.transformers import Options, TransformersModel
from cascade.turn import Exchange, Thought, Token

HELLO = [Message("system", "be kind"), Message("user", "hello, how are you?")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_llm(tmp_path_factory.mktemp("random-llm"))


@pytest.fixture(scope="module")
def reasoner(trained: Path) -> LanguageModelReasoner:
    engine = load_engine("reasoning", "transformers", {"model": str(trained), "temperature": 0.0, "top_logprobs": 4})
    assert isinstance(engine, LanguageModelReasoner)
    return engine


@pytest.fixture(scope="module")
def babbler(untrained: Path) -> TransformersModel:
    return transformers.language_model(Options(model=str(untrained), top_k=0, top_p=1.0, dtype="float32"))


def write(model: TransformersModel, messages: list[Message] = HELLO, **more: Any) -> list[Token]:
    settings = {"max_tokens": 40, "temperature": 0.8, "seed": 1, "top_logprobs": 0, "cancel": CancelScope()}
    return list(model.stream(messages, **{**settings, **more}))


def text(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_a_whole_answer(reasoner: LanguageModelReasoner) -> None:
    thought, *lines, reply = reasoner.respond(Prompt(heard("i lost my job"), sad()), cancel=CancelScope())
    assert isinstance(thought, Thought)
    assert (thought.heard, thought.strategy, thought.reply_emotion) == ("i lost my job", "reflect", "comforting")
    assert lines == SENTENCES
    assert reply.text == " ".join(SENTENCES)
    assert text(reply.tokens).strip() == reply.text
    assert all(len(token.top) == 4 for token in reply.tokens)
    assert reasoner.info.options["revision"] == "local"
    assert reasoner.info.options["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")


def test_unseen_words_and_histories(reasoner: LanguageModelReasoner) -> None:
    draw = random.Random(5)
    for n in range(100):
        said = "".join(draw.choices("etaoin shrdlu cmfwyp 你ß?,", k=draw.randint(1, 160)))
        history = [Exchange(said=said[::-1], replied="I see.", emotion="neutral")] * (n % 4)
        prompt = Prompt(heard(said), sad(draw.random()), history, seed=n)
        _, *lines, _ = reasoner.respond(prompt, cancel=CancelScope())
        assert lines == SENTENCES, said


def test_babble_is_no_answer(untrained: Path) -> None:
    engine = transformers.load(Options(model=str(untrained), max_tokens=30))
    with pytest.raises(EngineFailed, match="did not keep to the form"):
        list(engine.respond(Prompt(heard("i lost my job"), sad()), cancel=CancelScope()))


def test_log_probabilities_are_the_models_own(babbler: TransformersModel) -> None:
    tokens = write(babbler, top_logprobs=5, max_tokens=4)
    ids = babbler._request(HELLO, 4)
    for token in tokens:
        with torch.inference_mode():
            expected = babbler._model(input_ids=ids).logits[0, -1].float().log_softmax(-1).cpu()
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-3)
        assert [choice.logprob for choice in token.top] == pytest.approx(expected.topk(5).values.tolist(), abs=1e-3)
        assert token.top[0].text == babbler._tokenizer.decode([token.top[0].id])
        ids = torch.cat([ids, torch.tensor([[token.id]], device=ids.device)], dim=1)
    assert write(babbler, top_logprobs=0, max_tokens=2)[0].top == ()


def test_it_writes_what_the_librarys_own_generation_writes(babbler: TransformersModel) -> None:
    ids = babbler._request(HELLO, 30)
    expected = babbler._model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :].tolist()
    written = [token.id for token in write(babbler, temperature=0.0, max_tokens=30)]
    ends = babbler._ends
    assert written == [number for number in expected if number not in ends]


def test_a_long_request_is_read_in_pieces(babbler: TransformersModel) -> None:
    long = [Message("system", "x"), Message("user", "hello you " * 300)]
    ids = babbler._request(long, 4)
    assert ids.shape[1] > 2 * transformers.PREFILL
    with torch.inference_mode():
        expected = int(babbler._model(input_ids=ids).logits[0, -1].argmax())
    assert write(babbler, long, temperature=0.0, max_tokens=1, top_logprobs=1)[0].top[0].id == expected


def test_never_half_a_character(babbler: TransformersModel) -> None:
    text = "naïve 你好 🎉 ok é"
    ids = babbler._tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text), "most characters are several tokens"
    writing = transformers._Writing(babbler._text, babbler._hidden)
    pieces = [writing.add(number) for number in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    party = babbler._tokenizer.encode("🎉", add_special_tokens=False)
    half = transformers._Writing(babbler._text, babbler._hidden)
    assert "".join(half.add(number) for number in party[:-1]) == "", "what never became whole is not written"


def test_marks_of_the_chat_are_no_words(babbler: TransformersModel) -> None:
    start = babbler._tokenizer.convert_tokens_to_ids("<|im_start|>")
    think = babbler._tokenizer.convert_tokens_to_ids("<think>")
    writing = transformers._Writing(babbler._text, babbler._hidden)
    assert [writing.add(start), writing.add(think)] == ["", "<think>"]


def test_same_seed_same_words_whatever_others_draw(babbler: TransformersModel) -> None:
    alone, stop = text(write(babbler, seed=7)), threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            torch.rand(3)
            torch.manual_seed(random.randrange(1000))

    state = torch.get_rng_state()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        again = text(write(babbler, seed=7))
    finally:
        stop.set()
        thread.join()
        torch.set_rng_state(state)
    assert again == alone
    assert len({text(write(babbler, seed=seed, max_tokens=10)) for seed in range(5)}) == 5


def test_two_answers_at_once_are_those_of_each_alone(babbler: TransformersModel) -> None:
    first, second = ([token.text for token in write(babbler, seed=seed)] for seed in (1, 2))
    settings: dict[str, Any] = {"max_tokens": 40, "temperature": 0.8, "top_logprobs": 0, "cancel": CancelScope()}
    both = [babbler.stream(HELLO, seed=seed, **settings) for seed in (1, 2)]
    pairs = list(zip(*both, strict=True))
    assert [a.text for a, _ in pairs] == first
    assert [b.text for _, b in pairs] == second


def test_the_process_stays_as_it_is(untrained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> tuple[Any, ...]:
        torch_state = torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()
        return *torch_state, random.getstate(), np.random.get_state()[1].tolist(), torch.is_grad_enabled()

    before = state()
    model = transformers.language_model(Options(model=str(untrained)))
    assert state() == before
    stream = model.stream(HELLO, max_tokens=5, temperature=0.8, seed=3, top_logprobs=2, cancel=CancelScope())
    next(stream)
    assert state() == before
    list(stream)
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_stopped_between_tokens_and_before_the_first(babbler: TransformersModel) -> None:
    scope = CancelScope()
    stream = babbler.stream(HELLO, max_tokens=40, temperature=0.0, seed=0, top_logprobs=0, cancel=scope)
    next(stream)
    scope.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    with pytest.raises(Cancelled):
        write(babbler, cancel=scope)


def test_stopped_inside_a_forward_pass(untrained: Path) -> None:
    model, scope = transformers.language_model(Options(model=str(untrained))), CancelScope()
    model._model.model.layers[0].register_forward_hook(lambda *_: scope.cancel())
    reached: list[int] = []
    model._model.lm_head.register_forward_hook(lambda *_: reached.append(1))
    with pytest.raises(Cancelled):
        write(model, cancel=scope)
    assert reached == [], "the second layer was not run"


def test_a_thread_that_waits_is_stopped_soon(untrained: Path) -> None:
    model, scope = transformers.language_model(Options(model=str(untrained))), CancelScope()
    for layer in model._model.model.layers:
        layer.register_forward_hook(lambda *_: time.sleep(0.01))
    timer = threading.Timer(0.1, scope.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        write(model, max_tokens=10_000, cancel=scope)
    timer.join()


def test_a_request_that_does_not_fit_is_refused(babbler: TransformersModel) -> None:
    with pytest.raises(PromptTooLong, match=f"the model holds {WINDOW}"):
        write(babbler, max_tokens=WINDOW)


def test_out_of_memory(babbler: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(babbler._model, "forward", full)
    with pytest.raises(OutOfMemory):
        write(babbler)


def test_scores_that_are_no_numbers(untrained: Path) -> None:
    model = transformers.language_model(Options(model=str(untrained)))
    with torch.no_grad():
        model._model.lm_head.weight.fill_(math.nan)
    with pytest.raises(EngineFailed, match="no numbers"):
        write(model)


def test_a_template_without_system_messages(untrained: Path, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    model = transformers.language_model(Options(model=str(with_template(untrained, tmp_path / "a", template))))
    assert model._tokenizer.decode(model._request(HELLO, 1)[0]) == "user: be kind\n\nhello, how are you?\n"
    refuses = with_template(untrained, tmp_path / "b", "{{ raise_exception('never') }}")
    with pytest.raises(EngineFailed, match=r"refuses the conversation \(never"):
        write(transformers.language_model(Options(model=str(refuses))))


def test_its_own_thinking_is_switched_off(babbler: TransformersModel) -> None:
    assert babbler._tokenizer.decode(babbler._request(HELLO, 1)[0]).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_number_formats(trained: Path, dtype: Any) -> None:
    engine = transformers.load(Options(model=str(trained), temperature=0.0, dtype=dtype))
    assert str(engine.language_model._model.dtype) == f"torch.{dtype}"
    assert list(engine.respond(Prompt(heard("my dog is ill"), sad()), cancel=CancelScope()))[1:-1] == SENTENCES


def with_template(source: Path, folder: Path, template: str) -> Path:
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model":')


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def a_whisper(folder: Path) -> None:
    config = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "d_model": 16}
    (folder / "config.json").write_text(json.dumps(config))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("model_type: qwen3")


def own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the checkpoint was run')")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def weights_of_another(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


def weights_missing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    more = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (folder / "config.json").write_text(json.dumps({**config, **more}))


def pickles_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (no_tokenizer, "holds no tokenizer"),
        (broken_tokenizer, "its tokenizer cannot be used"),
        (no_template, "no chat template"),
        (a_whisper, "wrong architecture WhisperForConditionalGeneration"),
        (no_json, "config.json cannot be read"),
        (own_code, "wrong architecture"),
        (cut_weights, "not a model that can be read"),
        (weights_of_another, "not a model that can be read"),
        (weights_missing, "weights model.layers.2.* are missing"),
        (pickles_alone, "holds no \\*.safetensors"),
    ],
)
def test_what_cannot_be_used_is_one_line_at_load(
    harm: Callable[[Path], None], told: str, untrained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "harmed"
    shutil.copytree(untrained, folder)
    harm(folder)
    with pytest.raises(EngineUnavailable, match=told) as failed:
        load_engine("reasoning", "transformers", {"model": str(folder)})
    assert "\n" not in str(failed.value)
    assert str(folder) in str(failed.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_was_not_downloaded() -> None:
    with pytest.raises(EngineUnavailable, match="hf download Qwen/Qwen3-4B"):
        load_engine("reasoning", "transformers", {"device": "cpu"})


def test_the_module_itself_is_light() -> None:
    assert not hasattr(transformers, "torch")
    assert {need.name.split()[0] for need in transformers.needs(Options())} >= {"torch", "transformers", "jinja2"}


def test_items_may_be_taken_by_a_thread_each(reasoner: LanguageModelReasoner) -> None:
    items: Iterator[Any] = reasoner.respond(Prompt(heard("i lost my job"), sad()), cancel=CancelScope())
    taken: list[Any] = []
    for _ in range(4):
        thread = threading.Thread(target=lambda: taken.append(next(items)))
        thread.start()
        thread.join()
    assert taken[1:3] == SENTENCES
    assert taken[3].text == " ".join(SENTENCES)
