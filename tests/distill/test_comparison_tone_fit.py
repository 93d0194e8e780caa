"""The rubric against labels by hand, and the fit of a reply to its tone."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from cascade.engines import Prompt
from cascade.reasoning.critic import complaints, empathy
from cascade.turn import EMOTIONS, Reply, ReplyEmotion, Transcript
from distill.comparison.tone_fit import moves, tone_fit
from distill.teaching.make import known_cues
from distill.teaching.records import Labels

PAIRS = Path(__file__).parents[1] / "reply_pairs.jsonl"
DEV_PAIRS = PAIRS.with_name("reply_pairs_dev.jsonl")
FLAWS = ("ignores_cue", "clumsy_naming", "unsafe", "off_topic", "twin_tone")
WANTED = 0.85


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompt_of(pair: dict[str, Any]) -> Prompt:
    events = tuple(pair["events"]) if "events" in pair else None
    labels = Labels(emotion=pair["tone"], age=pair.get("age"), gender=pair.get("gender"), events=events)
    return Prompt(Transcript(text=pair["said"], engine="truth"), known_cues(labels, 1.0))


def rubric(pair: dict[str, Any], which: str) -> float:
    """Empathy, less what the critic objects to, and fit to the tone."""
    reply = Reply(**pair[which])
    return empathy(prompt_of(pair), reply) + tone_fit(reply, pair["said"], pair["tone"]).score


def agreement(pairs: list[dict[str, Any]]) -> Counter[str]:
    return Counter(pair["flaw"] for pair in pairs if rubric(pair, "good") > rubric(pair, "bad"))


def test_the_pairs_are_sixty_by_hand_twelve_of_each_flaw() -> None:
    pairs, dev = read(PAIRS), read(DEV_PAIRS)
    assert Counter(pair["flaw"] for pair in pairs) == dict.fromkeys(FLAWS, 12)
    assert all(pair["by_hand"] and pair["tone"] in EMOTIONS for pair in pairs)
    assert not {pair["said"] for pair in pairs} & {pair["said"] for pair in dev}
    assert len({pair[which]["text"] for pair in pairs for which in ("good", "bad")}) == 120


def test_the_rubric_agrees_with_the_labels_by_hand() -> None:
    pairs = read(PAIRS)
    right = agreement(pairs)
    shown = ", ".join(f"{flaw} {right[flaw]}/12" for flaw in FLAWS)
    print(f"\nrubric and hand agree on {right.total()}/60: {shown}")
    assert right.total() >= WANTED * len(pairs), shown
    assert min(right[flaw] for flaw in FLAWS) >= 9, shown


def test_the_critic_names_the_flaw_and_lets_most_good_replies_be() -> None:
    pairs = [pair for pair in read(PAIRS) if pair["flaw"] != "twin_tone"]
    found = [bool(complaints(prompt_of(pair), Reply(**pair["bad"]))) for pair in pairs]
    alarms = [bool(complaints(prompt_of(pair), Reply(**pair["good"]))) for pair in pairs]
    assert sum(found) >= 0.7 * len(pairs)
    assert sum(alarms) <= 0.1 * len(pairs)


def test_the_rubric_does_not_count_words() -> None:
    """Most good replies are the longer ones; where they are not, the rubric must still find them."""
    short = [pair for pair in read(PAIRS) if len(pair["good"]["text"]) <= len(pair["bad"]["text"])]
    assert len(short) == 8
    assert agreement(short).total() >= WANTED * len(short)


# --- fit to a tone

JOY = Reply(text="Congratulations, that is fantastic! When do you start?", emotion="joyful")
SOLACE = Reply(text="I'm so sorry. That is a heavy loss, take your time.", emotion="comforting")
SIDE = Reply(text="That's unfair. You have every right to be furious about it.", emotion="neutral")
STEADY = Reply(text="It's okay to be nervous. You're not alone, one step at a time.", emotion="comforting")
RECOIL = Reply(text="Ugh, how gross. That would put me off, too.", emotion="sorry")
WONDER = Reply(text="Whoa, I did not expect that! What happened then?", emotion="surprised")
PLAIN = Reply(text="All right. What time does it start?", emotion="neutral")
MADE_FOR = {
    "happy": JOY,
    "sad": SOLACE,
    "angry": SIDE,
    "fearful": STEADY,
    "disgusted": RECOIL,
    "surprised": WONDER,
    "neutral": PLAIN,
}


@pytest.mark.parametrize("tone", MADE_FOR)
def test_a_reply_made_for_a_tone_fits_it_best_and_better_than_the_others(tone: Any) -> None:
    own = tone_fit(MADE_FOR[tone], "They called me this morning.", tone).score
    for other in set(MADE_FOR) - {tone}:
        assert own > tone_fit(MADE_FOR[tone], "They called me this morning.", other).score
        assert own > tone_fit(MADE_FOR[other], "They called me this morning.", tone).score


@pytest.mark.parametrize("tone", [tone for tone in MADE_FOR if tone not in ("neutral", "angry")])
def test_words_count_where_every_voice_is_the_same(tone: Any) -> None:
    flat = {name: reply.model_copy(update={"emotion": "neutral"}) for name, reply in MADE_FOR.items()}
    own = tone_fit(flat[tone], "They called me this morning.", tone)
    assert own.words == max(tone_fit(reply, "They called me this morning.", tone).words for reply in flat.values())


def test_what_the_person_said_is_no_move_of_the_reply() -> None:
    said = "My heavy suitcase was a wonderful surprise."
    assert moves("So the heavy suitcase was a wonderful surprise.", said) == ("plain",)
    assert "celebrates" in moves("That is wonderful.", "I got a suitcase.")


def test_a_negation_takes_gladness_back() -> None:
    assert moves("That is nothing to celebrate.", "I got a suitcase.") == ("plain",)
    assert moves("It is not very lovely.", "I got a suitcase.") == ("plain",)


def test_every_tone_and_voice_has_a_score() -> None:
    for tone, voice in itertools.product(EMOTIONS, get_args(ReplyEmotion)):
        found = tone_fit(Reply(text="Hm.", emotion=voice), "I went out.", tone)
        assert 0 <= found.score <= 1
    assert tone_fit(PLAIN, "I went out.", "other") == tone_fit(PLAIN, "I went out.", "neutral")
