"""Words that Debian's espeak-ng speaks, in many voices."""

import io
import subprocess
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from trine.scripts.datasets.packages import FetchError
from trine.scripts.datasets.parsers import Record
from trine.training.data.sounds import resample


WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
)
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
# A variant is a speaker; each speaks in one split only.
SPEAKERS = {
    "train": ("m1", "m2", "m3", "m5", "m7", "f1", "f2", "f5"),
    "validation": ("m6",),
    "test": ("m4", "f3", "f4"),
}
SPEEDS = (140, 185)  # words a minute
RATE = 16_000


def build_words(_: Path) -> Iterator[tuple[str, Record]]:
    """Each word by each speaker, in each accent and at each speed, as a WAV of 16 kHz; the group is the split."""
    from tqdm.auto import tqdm

    spoken = [
        (split, speaker, accent, speed, word)
        for split, speakers in SPEAKERS.items()
        for speaker in speakers
        for accent in ACCENTS
        for speed in SPEEDS
        for word in WORDS
    ]
    with ThreadPoolExecutor(2) as threads:
        sounds = threads.map(lambda each: speak(each[4], f"{each[2]}+{each[1]}", each[3]), spoken)
        for (split, speaker, accent, speed, word), sound in zip(spoken, tqdm(sounds, total=len(spoken)), strict=True):
            yield split, {"sound": sound, "label": word, "speaker": speaker, "accent": accent, "speed": speed}


def speak(word: str, voice: str, speed: int) -> bytes:
    """A WAV of 16 kHz of a word.

    Raises:
        FetchError: espeak-ng is not there, or does not know the voice.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", word]
    try:
        made = subprocess.run(command, check=True, capture_output=True).stdout
    except OSError as error:
        raise FetchError(
            f"Cannot speak: this machine does not run 'espeak-ng' ({error.strerror}). Debian's package espeak-ng has "
            "it: `apt install espeak-ng`."
        ) from error
    except subprocess.CalledProcessError as error:
        raise FetchError(f"Cannot speak '{word}': espeak-ng ended with status {error.returncode}.") from error
    start = made.index(b"data") + 8  # its length is not known while it is written
    samples = np.frombuffer(made[start : start + (len(made) - start) // 2 * 2], dtype="<i2")
    rate = int.from_bytes(made[24:28], "little")
    return to_wav(resample(torch.from_numpy(samples / 32768), rate, RATE).numpy())


def to_wav(samples: np.ndarray) -> bytes:
    """A WAV of one channel of samples from -1 to 1."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()
