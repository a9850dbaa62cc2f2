"""Log-mel spectrograms of sounds, as transformers' ASTFeatureExtractor makes them, with PyTorch alone."""

# Shapes: T samples, F frames, M mel bands.

import torch
from transformers.audio_utils import mel_filter_bank


FRAME, STEP, POINTS = 400, 160, 512  # samples of a frame, between frames, and of the Fourier transform
MEAN, DEVIATION = -4.2677393, 4.5689974  # of AudioSet, which AST is normalised by
SMALLEST = 1.192092955078125e-07
PREEMPHASIS = 0.97


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
