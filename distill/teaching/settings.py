"""How a dataset is made: everything that decides what its rows are, beside the profile's engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cascade.turn import Record, Stage


class Gates(Record):
    """What a row must pass to be a training target. Practice of the two papers where they tell it, else Attune's reason.

    A measure that was not taken (sampled out, or no engine can take it) rejects nothing; the card says how often that was.
    """

    max_user_wer: float | None = Field(
        default=None, ge=0
    )  # Emotion Omni gates by it; None: the profile's usual (USER_WER)
    user_emotion_best: bool = True  # Emotion Omni: a speech-emotion recognizer must agree with the emotion asked for
    max_reply_wer: float | None = Field(default=None, ge=0)  # None: the limit of the profile's judge
    min_reply_emotion: float = Field(
        default=0.15, ge=0, le=1
    )  # one label of seven by chance: below it sounds like another
    min_empathy: float = Field(default=0.5, ge=0, le=1)  # EPITOME: below it a reply neither reacts nor understands
    # "I did not catch that", "I cannot look that up": right only where the user is known to have asked for something.
    clarify_requests_only: bool = True
    user_s: tuple[float, float] = (0.5, 30.0)  # 30 s: what a Whisper encoder sees at once
    reply_s: tuple[float, float] = (0.5, 30.0)
    max_silence_share: float = Field(default=0.7, ge=0, le=1)  # more silence than that is no speech
    max_clipped_share: float = Field(
        default=0.01, ge=0, le=1
    )  # a peak or two is loud; one sample in a hundred is broken


class Sampling(Record):
    """Costly gates may look at a share of the rows. Chosen by index and seed, so the same rows each time."""

    # Rows whose words and reply the recognizer hears. None: all, or its share in LISTENED.
    listen_share: float | None = Field(default=None, ge=0, le=1)


class Settings(Record):
    """`user_voices`: "simulated", or a folder of voice banks, one a person, for tts=f5. `candidates`: replies weighed for each
    turn; the best is spoken, the worst kept as text for preferences. `teacher_sees`: the labels asked for, or only what the
    analyzers heard. `block`: scenarios that become one part of each split.
    """

    seed: int = Field(default=0, ge=0)
    user_voices: str = "simulated"
    candidates: int = Field(default=2, ge=1, le=16)
    teacher_sees: Literal["asked", "heard"] = "asked"
    calibrate: bool = True  # analyzers read each simulated voice against three calm sentences of its own
    block: int = Field(default=100, ge=1)
    gates: Gates = Gates()
    sampling: Sampling = Sampling()


# Word error rates beyond which a user's speech is not what it should be, by recognizer. PocketSphinx mishears two words in three
# of clean synthetic speech, so with it only what was not heard at all is sent back.
USER_WER = {"pocketsphinx": 0.95}
USUAL_USER_WER = 0.3
# Share of rows that are listened to by default: PocketSphinx would take longer than all else together, to say little.
LISTENED = {"pocketsphinx": 0.05}


# --- how a run lies on a Ray cluster; decides no row


Hostable = Literal["asr", "emotion", "speaker", "events", "prosody", "reasoning", "tts"]


class Share(Record):
    """What each engine of a stage takes of the cluster, where it has a process of its own beside the workers.

    `gpus`: 0.25 lets four share a GPU; nothing but their sizes keeps them within its memory. `engines`: how many; None: as many
    sets of all such stages as there are GPUs for. `at_once`: calls on which one engine works at the same time.
    """

    gpus: float = Field(default=0, ge=0)
    cpus: float = Field(default=0, ge=0)
    engines: int | None = Field(default=None, ge=1)
    at_once: int = Field(default=1, ge=1)


class Cluster(Record):
    """A judge takes no share: it hears and asks through the other stages' engines."""

    stages: dict[Hostable, Share] = Field(default_factory=dict)
    cpus_per_worker: float = Field(default=1, gt=0)


# By the sizes of the gpu profile's models in a GPU of 24 GB, so that one of each fits. Not measured for speed.
GPU_SHARES: dict[Stage, float] = {
    "asr": 0.15,
    "emotion": 0.05,
    "speaker": 0.05,
    "events": 0.05,
    "reasoning": 0.45,
    "tts": 0.2,
}
