"""Log-mel spectrograms of sounds, as transformers' ASTFeatureExtractor makes them, with PyTorch alone."""

# Shapes: T samples, F frames, M mel bands.

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.audio_utils import mel_filter_bank


FRAME, STEP, POINTS = 400, 160, 512  # samples of a frame, between frames, and of the Fourier transform
MEAN, DEVIATION = -4.2677393, 4.5689974  # of AudioSet, which AST is normalised by
SMALLEST = 1.192092955078125e-07
PREEMPHASIS = 0.97
WIDTHS: dict[int, tuple[str, float]] = {1: ("u1", 128.0), 2: ("<i2", 0.0), 4: ("<i4", 0.0)}  # bytes: type, silence


def resample(waveform: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """Samples (T,) or (..., T) of a sound at another rate, by its spectrum: what is above half of that rate goes.

    Args:
        waveform: Samples at `rate` a second.
        rate: Samples a second, 1 or more.
        wanted: Samples a second of the result.

    Raises:
        ValueError: A rate below 1, or no sample.
    """
    for name, value in (("rate", rate), ("wanted", wanted)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1 sample a second.")
    if waveform.shape[-1] == 0:
        raise ValueError("waveform holds no sample.")
    if rate == wanted:
        return waveform
    length = max(1, round(waveform.shape[-1] * wanted / rate))
    spectrum, fewest = torch.fft.rfft(waveform), min(length, waveform.shape[-1])
    if fewest % 2 == 0 and length != waveform.shape[-1]:  # the highest wave stands once in one, twice in the other
        spectrum[..., fewest // 2] *= 2.0 if length == fewest else 0.5
    return torch.fft.irfft(spectrum, n=length) * (length / waveform.shape[-1])


def log_mel(
    waveform: torch.Tensor,
    sampling_rate: int,
    num_mel_bins: int = 128,
    patch_size: int = 16,
    num_frames: int | None = None,
) -> torch.Tensor:
    """The normalised log-mel spectrogram (F, M) of a sound, a frame each 10 milliseconds at 16 kHz.

    Frames of 25 milliseconds lose their mean, are pre-emphasised and windowed (Hann); the power of their spectrum goes
    through triangular filters on Kaldi's mel scale.
    Source: Gong et al. 2021, AST, arXiv 2104.01778, as released; Kaldi's filter banks.

    Args:
        waveform: Samples (T,) of one channel, from -1 to 1.
        sampling_rate: Samples a second; 16,000, which frames and filters are made for.
        num_mel_bins: M.
        patch_size: F is rounded up to a multiple of it, with zeros before normalisation.
        num_frames: F, in place of what the sound has: longer ones are cut, shorter ones padded.

    Raises:
        ValueError: Another sampling rate, several channels, too few samples, or samples that are no numbers.
    """
    if sampling_rate != 16_000:
        raise ValueError(f"sampling_rate={sampling_rate} must be 16000: resample the sound before.")
    if waveform.ndim != 1:
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but must be one channel (samples,): of stereo take the mean."
        )
    if len(waveform) < FRAME:
        raise ValueError(f"waveform has {len(waveform)} samples; a frame takes {FRAME}.")
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError("waveform holds values that are not finite.")
    frames = waveform.to(torch.float64).unfold(0, FRAME, STEP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), dim=-1)
    window = torch.hann_window(FRAME, periodic=False, dtype=torch.float64)
    power = torch.fft.rfft((frames - PREEMPHASIS * before) * window, n=POINTS).abs() ** 2
    bands = (power @ filters(num_mel_bins, sampling_rate)).clamp(min=SMALLEST).log().to(torch.float32)
    length = num_frames or -(-len(bands) // patch_size) * patch_size
    padded = torch.zeros((length, num_mel_bins))
    padded[: min(length, len(bands))] = bands[:length]
    return (padded - MEAN) / (2 * DEVIATION)


def read_sound(file: str | Path) -> torch.Tensor:
    """Samples (T,) of a WAV file at 16 kHz, from -1 to 1: the mean of its channels, resampled from another rate.

    Raises:
        ValueError: It is no WAV of whole numbers of 8, 16 or 32 bits, or is empty.
    """
    try:
        with wave.open(str(file), "rb") as opened:
            width, channels, rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
            data = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"'{file}' cannot be read as a WAV file: {error}. Convert other sounds to WAV.") from error
    if width not in WIDTHS:
        raise ValueError(f"'{file}' has samples of {8 * width} bits; a WAV file may have {[8 * w for w in WIDTHS]}.")
    kind, middle = WIDTHS[width]
    samples = np.frombuffer(data[: len(data) // (width * channels) * width * channels], dtype=kind)
    if not len(samples):
        raise ValueError(f"'{file}' holds no sample.")
    one = (samples.astype(np.float32) - middle).reshape(-1, channels).mean(1) / 2 ** (8 * width - 1)
    return resample(torch.from_numpy(one), rate, 16_000)


class Sounds(Dataset):
    """Spectrograms of WAV files, each (F, M), with targets; all are read when this is made.

    Args:
        files: WAV files.
        targets: A number for each.
        num_mel_bins: M.
        num_frames: F; longer sounds are cut, shorter ones padded.
    """

    def __init__(self, files: Sequence[str | Path], targets: Sequence[Any], num_mel_bins: int, num_frames: int):
        self.targets, self.spectrograms = targets, []
        for file in files:
            try:
                self.spectrograms.append(log_mel(read_sound(file), 16_000, num_mel_bins, num_frames=num_frames))
            except ValueError as error:
                raise ValueError(str(error) if str(file) in str(error) else f"'{file}': {error}") from error

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        return self.spectrograms[index], self.targets[index]


class SoundCollator:
    """Makes `input_values` (B, F, M) and `labels` of sounds, in training with bands of time and of pitch hidden.

    Source: Park et al. 2019, SpecAugment, arXiv 1904.08779, without warping; here the hidden bands have the mean, 0.

    Args:
        hidden: The largest share of frames, and of bands, that is hidden.
        shift: The largest share of frames that a sound is moved by, to either side, with its own first or last frame.
        seed: Of both.
    """

    def __init__(self, hidden: float = 0.0, shift: float = 0.0, seed: int = 0):
        self.hidden, self.shift = hidden, shift
        self.draw = np.random.default_rng(seed)

    def __call__(self, examples: Sequence[tuple[torch.Tensor, Any]]) -> dict[str, torch.Tensor]:
        values = torch.stack([spectrogram for spectrogram, _ in examples])
        for each in values if self.hidden or self.shift else ():
            if self.shift:
                most = int(self.shift * len(each))
                moved = int(self.draw.integers(-most, most + 1))
                places = (torch.arange(len(each)) - moved).clamp(0, len(each) - 1)
                each.copy_(each[places])
            for dimension in (0, 1):
                length = int(self.draw.integers(0, int(self.hidden * each.shape[dimension]) + 1))
                start = int(self.draw.integers(0, each.shape[dimension] - length + 1))
                each.narrow(dimension, start, length).zero_()
        return {"input_values": values, "labels": torch.tensor([target for _, target in examples])}


def filters(num_mel_bins: int, sampling_rate: int) -> torch.Tensor:
    """Triangular filters (frequencies, M) on Kaldi's mel scale, from 20 Hz up to half of the sampling rate."""
    bank = mel_filter_bank(
        num_frequency_bins=POINTS // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=20,
        max_frequency=sampling_rate // 2,
        sampling_rate=sampling_rate,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(bank)
