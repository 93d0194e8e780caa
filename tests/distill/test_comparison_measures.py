"""What is measured of one answer: against the truth, with failures counted, and nothing invented where nothing can be told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from fakes import FakeAnalyzer, FakeRecognizer, tone

from cascade.audio import AudioRef, Waveform
from cascade.cancel import CancelScope
from cascade.engines import EmotionFeatures
from cascade.paralinguistics import acoustic
from cascade.tts.espeak import Espeak
from cascade.turn import (
    AgeCue,
    Cues,
    EmotionCue,
    EventsCue,
    Failure,
    GenderCue,
    Reply,
    Transcript,
    Turn,
    VocalEvent,
)
from distill.comparison import listening
from distill.comparison.listening import Tools, open_tools, sentences_expected, unmeasured, verbatim_share
from distill.comparison.measures import (
    MEASURES,
    contrast_pairs,
    told_of,
    tones_of,
    twins_of,
    values_of,
    voice_vector,
)
from distill.comparison.records import Check, Item
from distill.comparison.statistics import figure
from distill.teaching.records import Labels
from distill.teaching.scenarios.plan import PlanOptions, planned

SOUND = AudioRef(path="x.wav", sha256="0" * 64, sample_rate=16_000, duration_s=1)
TONES = ("happy", "sad", "angry")
KIND = Reply(text="Your dog is gone. That must weigh on you. What happened?", emotion="comforting")
SET_WIDE = {"emotion_ece", "age_ece", "gender_ece", "contrast_pairs"}
OF_SYSTEMS = {
    "first_sound_s",
    "total_s",
    "real_time_factor",
    "cpu_s",
    "parameters",
    "load_s",
    "peak_memory_mb",
    "energy_j",
}


def item(number: int = 1, text: str | None = "My dog died yesterday.", task: Any = "emotion", **more: Any) -> Item:
    labels = more.pop("labels", Labels(emotion="sad", age="adult", gender="female", events=("cry",)))
    return Item(id=f"{task}-{number:04d}", task=task, text=text, labels=labels, group="g", audio=SOUND, **more)


def events(*kinds: Any) -> EventsCue:
    return EventsCue(events=tuple(VocalEvent(kind=k, start_s=0, end_s=1, confidence=0.9) for k in kinds), engine="f")


HEARD = Cues(
    emotion=EmotionCue(probabilities={"sad": 0.6, "neutral": 0.4}, engine="f"),
    age=AgeCue(probabilities={"adult": 0.4, "elder": 0.35, "child": 0.25}, engine="f"),
    gender=GenderCue(engine="f", reason="between"),
    events=events("cry", "cough", "cry"),
)


def turn(
    reply: Reply | None = KIND, heard: str | None = "my dog tied yesterday", cues: Cues = HEARD, **more: Any
) -> Turn:
    return Turn(
        id="t",
        session_id="s",
        index=0,
        created_at=datetime.now(UTC),
        source="speech",
        user_audio=SOUND,
        transcript=None if heard is None else Transcript(text=heard, engine="f"),
        cues=cues,
        reply=reply,
        **more,
    )


def measured(
    one: Item, answer: Turn | None, speech: Waveform | None = None, tools: Tools | None = None, **more: Any
) -> Any:
    said = speech if speech is not None else tone() if answer and answer.reply else None
    return values_of(one, answer, said, tools or Tools(), **more)


def test_every_value_is_a_measure_of_the_table_and_every_measure_has_its_source() -> None:
    names = {one.name for one in MEASURES}
    found = measured(item(check=Check(kind="question")), turn(), tools=whole_tools(), twins=("happy",))
    assert set(found.values) | SET_WIDE | OF_SYSTEMS | {"naturalness", "judge_emotion", "judge_task"} == names
    assert set(found.notes) <= names
    assert all(one.title and one.about.endswith(".") and one.source for one in MEASURES)
    assert {one.name for one in MEASURES if one.timing} == OF_SYSTEMS - {"parameters"}


# --- heard


def test_words_and_cues_are_held_against_the_truth() -> None:
    values = measured(item(), turn()).values
    assert values["transcript_wer"] == (1, 4)
    assert (values["emotion_accuracy"], values["emotion_best"], values["emotion_told"]) == ((1, 1), (1, 1), (1, 1))
    assert (values["age_accuracy"], values["age_best"], values["age_told"]) == ((0, 1), (1, 1), (0, 1)), (
        "not sure enough"
    )
    assert (values["gender_accuracy"], values["gender_best"], values["gender_told"]) == ((0, 1), (0, 1), (0, 1))
    assert values["event_recall"] == (1, 1)
    assert values["event_precision"] == (1, 2), "a kind counts once"


def test_what_is_not_known_or_not_told_by_its_kind_is_left_out() -> None:
    plain = measured(item(labels=Labels(emotion="sad")), turn())
    assert not {"age_accuracy", "gender_told", "event_recall", "event_precision"} & set(plain.values)
    mute = measured(item(), turn(heard=None, cues=Cues()))
    assert not {"transcript_wer", "emotion_accuracy", "event_recall"} & set(mute.values)
    assert "tells nothing" in mute.notes["emotion_accuracy"]
    assert "words it heard" in mute.notes["transcript_wer"]
    assert told_of(item(), turn(cues=Cues()), "emotion") is None
    quiet = measured(item(labels=Labels(events=())), turn(cues=Cues(events=events())))
    assert not {"event_recall", "event_precision"} & set(quiet.values), "nothing to find, and nothing told"


def test_a_failed_answer_is_wrong_where_one_can_be_right_and_left_out_where_there_is_no_sound() -> None:
    one = item(check=Check(kind="question"))
    for answer in (None, turn(None, None, Cues())):
        found = measured(one, answer, twins=("happy",), tools=whole_tools()).values
        assert found["answered"] == (0, 1)
        assert found["transcript_wer"] == (4, 4)
        for name in ("emotion_accuracy", "age_best", "event_recall", "contrast_fit", "empathy", "instruction_followed"):
            assert found[name] == (0, 1), name
        assert not {"reply_wer", "speech_quality", "reply_s", "objections", "reply_emotion_agreement"} & set(found)
    told = told_of(one, None, "emotion")
    assert told is not None
    assert (told.truth, told.told, told.best) == ("sad", None, None)


def test_a_stage_that_failed_counts_as_unknown_though_the_answer_came() -> None:
    broken = Failure(stage="emotion", kind="timeout", message="too slow")
    found = measured(item(), turn(cues=Cues(), failures=(broken,)))
    assert found.values["emotion_accuracy"] == (0, 1)
    assert "age_accuracy" not in found.values


def test_a_reply_whose_sound_failed_is_no_answer() -> None:
    found = values_of(item(), turn(), None, Tools()).values
    assert found["answered"] == (0, 1)
    assert found["empathy"] == (0, 1)
    assert found["emotion_accuracy"] == (1, 1), "what it heard it did hear"


# --- answered


def test_empathy_is_of_the_true_words_and_voice() -> None:
    """A system that heard good news congratulates: by what it heard all is well, by the truth it is not."""
    glad = Reply(text="Congratulations on your dog! How wonderful!", emotion="joyful")
    deaf = turn(glad, "my dog won the prize", Cues(emotion=EmotionCue(probabilities={"happy": 1.0}, engine="f")))
    found = measured(item(), deaf)
    assert found.values["empathy"][0] < 0.2
    assert found.values["objections"] == (1, 1)
    assert "ignores the cues" in found.notes["objections"]
    kind = measured(item(), turn(heard="nothing at all")).values
    assert kind["empathy"][0] > 0.7
    assert kind["objections"] == (0, 1)


def test_a_recording_whose_words_are_not_known_says_so() -> None:
    found = measured(item(text=None, task="own"), turn())
    assert not {"empathy", "objections", "transcript_wer"} & set(found.values)
    assert "not known" in found.notes["empathy"]


@pytest.mark.parametrize(("text", "right"), [("How are you?", (1, 1)), ("I am well.", (0, 1))])
def test_an_instruction_is_checked_on_the_reply(text: str, right: Any) -> None:
    one = item(task="instruction", check=Check(kind="question"))
    assert measured(one, turn(Reply(text=text, emotion="neutral"))).values["instruction_followed"] == right


def contrast(count: int = 4) -> list[Item]:
    numbers = itertools.count(1)
    return [
        item(
            next(numbers),
            f"The letter number {one} came today.",
            "contrast",
            contrast=f"c{one}",
            labels=Labels(emotion=t),
        )
        for one in range(count)
        for t in TONES
    ]


def contrast_fit(items: list[Item], replies: dict[str, Reply]) -> float:
    twins = twins_of(items)
    values = {
        one.id: measured(one, turn(replies[one.id]), twins=tones_of(twins[one.id])).values["contrast_fit"]
        for one in items
    }
    found = figure(values, {one.id: one.id for one in items}, 0)
    assert found is not None
    return found.value


MEANT = {
    "happy": Reply(text="How lovely! What a joy. What does it say?", emotion="joyful"),
    "sad": Reply(text="I am sorry, that is hard. Take your time.", emotion="comforting"),
    "angry": Reply(text="That is not fair. No wonder it annoys you. What should change?", emotion="neutral"),
}


@pytest.mark.parametrize(
    "reply", [*MEANT.values(), Reply(text="Hm.", emotion="afraid")], ids=lambda reply: reply.emotion
)
def test_who_answers_every_tone_alike_has_exactly_one_half_and_no_pair(reply: Reply) -> None:
    items = contrast()
    replies = {one.id: reply for one in items}
    assert contrast_fit(items, replies) == 0.5
    pairs = contrast_pairs(items, replies)
    assert {value for value, _ in pairs.values()} == {0}
    assert {count for _, count in pairs.values()} == {2}


def test_who_meets_the_tone_has_one_and_who_meets_the_other_has_none() -> None:
    items = contrast()
    right = {one.id: MEANT[one.labels.emotion] for one in items}
    swapped = {"happy": "sad", "sad": "happy", "angry": "happy"}
    wrong = {one.id: MEANT[swapped[one.labels.emotion]] for one in items}
    assert contrast_fit(items, right) == 1.0
    assert contrast_fit(items, wrong) < 0.2
    assert set(contrast_pairs(items, right).values()) == {(2, 2)}
    assert contrast_pairs(items, dict.fromkeys(right)) == dict.fromkeys(right, (0, 2)), "failed answers"


def test_items_without_a_twin_have_no_contrast() -> None:
    alone = item(1, task="contrast", contrast="c")
    same = item(2, task="contrast", contrast="c")
    assert twins_of([alone, same, item(3)]) == {}
    assert "contrast_fit" not in measured(alone, turn()).values


# --- how it sounds


class Quality:
    def score(self, speech: Waveform, cancel: CancelScope) -> float:
        return 3.5


def whole_tools(heard: str = "your dog is gone that must weigh on you what") -> Tools:
    calm = Cues(emotion=EmotionCue(probabilities={"neutral": 0.5, "sad": 0.2, "happy": 0.3}, engine="f"))
    return Tools(
        ears=FakeRecognizer(Transcript(text=heard, engine="f")),
        emotion=Embeds(*[calm] * 3),
        expected=frozenset({"what happened"}),
        quality={"speech_quality": Quality()},
        reference=lambda _: tone(1.0, 330.0),
    )


class Embeds(FakeAnalyzer):
    def embed(self, speech: Waveform, *, cancel: CancelScope) -> EmotionFeatures:
        crossings = np.diff(np.signbit(speech.samples)).sum() / speech.duration_s / 1000
        vector = np.array([1.0, crossings], np.float32)
        return EmotionFeatures(vector, vector[None], 1.0)


def test_the_sound_of_a_reply_is_listened_to() -> None:
    found = measured(item(), turn(), tone(2.0), whole_tools())
    assert found.listen_back == "your dog is gone that must weigh on you what"
    assert found.values["reply_wer"] == (1, 11)
    assert "33%" in found.notes["reply_wer"]
    assert found.values["reply_emotion_agreement"] == (0.7, 1)
    assert found.values["speech_quality"] == (3.5, 1)
    assert found.values["reply_s"] == (2.0, 1)
    assert found.values["voice_similarity"][0] == pytest.approx(1.29 / np.sqrt(1.194 * 1.436), abs=0.01)


def test_tools_that_are_not_there_leave_their_measures_out() -> None:
    found = measured(
        item(), turn(), tone(), Tools(emotion=FakeAnalyzer(Cues(emotion=EmotionCue(engine="f", reason="?"))))
    )
    assert not {"reply_wer", "speech_quality", "voice_similarity", "reply_emotion_agreement"} & set(found.values)
    assert "cannot tell" in found.notes["reply_emotion_agreement"]
    assert found.listen_back is None


def test_voices_are_alike_by_the_features_in_their_standard_deviations(voice: Espeak) -> None:
    engine, scope = acoustic.load(acoustic.Options()), CancelScope()

    def spoken(emotion: Any) -> Waveform:
        return voice.speak(
            "The keys are on the shelf.", emotion=emotion, intensity=1.0, rate=1.0, seed=0, cancel=scope
        ).wave

    sad, again, glad = (voice_vector(spoken(emotion), engine, scope) for emotion in ("sad", "sad", "joyful"))
    assert np.array_equal(sad, again)
    assert sad @ glad < 0.9 * np.linalg.norm(sad) * np.linalg.norm(glad)
    assert voice_vector(tone(), engine, scope) is None


# --- ears


def test_the_ears_expect_what_is_written_to_training_turns_alone() -> None:
    options = PlanOptions(turns=40, seed=6006, speak_share=0, validation_share=0, test_share=0)
    assert {scenario.split for scenario in planned(options)} == {"train"}
    few = sentences_expected(40)
    assert few == sentences_expected.__wrapped__(40)
    assert len(few) > 40
    expected = frozenset(map(listening.spoken_form, few))
    assert verbatim_share(f"{few[0]} Bananas grow in clusters.", expected) == 0.5


def test_open_tools_hear_what_they_expect(voice: Espeak, monkeypatch: pytest.MonkeyPatch) -> None:
    few = sentences_expected(40)
    monkeypatch.setattr(listening, "sentences_expected", lambda: few)
    line = next(line for line in few if len(line.split()) == 5)
    speech = voice.speak(line, emotion="neutral", intensity=0.5, rate=1.0, seed=0, cancel=CancelScope()).wave
    with open_tools() as tools:
        tools = replace(tools, quality={})
        answer = measured(item(), turn(Reply(text=line, emotion="neutral")), speech, tools)
    wrong, count = answer.values["reply_wer"]
    assert wrong / count <= 0.4
    assert answer.notes["reply_wer"].startswith("100%")
    assert "reply_emotion_agreement" in answer.values


def test_what_cannot_be_had_here_says_what_would_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        listening.quality, "needs", lambda: [listening.quality.package("no_such", "no-such", "pip install x")]
    )
    found = unmeasured(None)
    assert found["speech_quality"] == "DNSMOS needs no-such: pip install x"
    assert set(found) == {"naturalness", "speech_quality", "judge_emotion", "judge_task"}
    assert set(found) <= {one.name for one in MEASURES}
