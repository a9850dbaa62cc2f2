"""Training classifiers of sounds: folders and records of WAV files, and what they may hold."""

import json
import math
import wave

import numpy as np
import pytest
import torch
from scipy.signal import resample as scipy_resample
from transformers import pipeline

from trine.scripts import train_sounds
from trine.training.data.sounds import SoundCollator, log_mel, read_sound, resample


SMALL = ["--num_mel_bins", "32", "--num_frames", "48", "--config_overrides", "hidden_size=16", "num_hidden_layers=1"]
SMALL += ["num_attention_heads=2", "--disable_tqdm", "true", "--shift", "0", "--hidden_share", "0"]


def tone(frequency, seconds=0.5, rate=16_000, seed=0):
    time = np.arange(int(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * frequency * time) + 0.02 * np.random.default_rng(seed).normal(size=len(time))


def write(path, samples, rate=16_000, width=2):
    """A WAV of samples (T,) or (T, channels) from -1 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, middle = {1: ("u1", 128), 2: ("<i2", 0), 3: ("<i4", 0), 4: ("<i4", 0)}[width]
    whole = (np.asarray(samples) * (2 ** (8 * width - 1) - 1) + middle).round().astype(kind)
    data = whole.tobytes() if width != 3 else b"\0" * 3 * whole.size
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if whole.ndim == 1 else whole.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes(data)
    return path


@pytest.fixture
def classes(tmp_path):
    for name, frequency in (("high", 3000), ("low", 200)):
        for number in range(8):
            write(tmp_path / "sounds" / name / f"{number}.wav", tone(frequency + 9 * number, seed=number))
    return tmp_path / "sounds"


def run(tmp_path, *argv, output="out"):
    assert train_sounds.main(["--output_dir", str(tmp_path / output), *argv]) == 0
    return json.loads((tmp_path / output / "metrics.json").read_text())


def test_a_folder_of_classes_is_learned_and_named_by_the_pipeline(classes, tmp_path, capsys):
    argv = ["--files", str(classes), *SMALL, "--num_train_epochs", "20", "--learning_rate", "3e-3"]
    metrics = run(tmp_path, *argv, "--per_device_train_batch_size", "8", "--early_stopping_patience", "0")
    assert metrics["labels"] == ["high", "low"] and metrics["scores"]["model"]["accuracy"] == 1.0
    assert "14 sounds to train on, 2 to validate with, 2 classes." in capsys.readouterr().out
    classify = pipeline("audio-classification", model=str(tmp_path / "out"))
    assert classify(tone(2950, seed=99).astype(np.float32))[0]["label"] == "high"
    assert (tmp_path / "out/confusion.png").exists()


def test_records_are_the_same_sounds_and_a_model_goes_on(classes, tmp_path):
    lines = [{"sound": f"{name}/{number}.wav", "label": name} for name in ("high", "low") for number in range(8)]
    (classes / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    files = ["--files", str(classes / "train.jsonl")]
    metrics = run(tmp_path, *files, "--validation_files", str(classes / "train.jsonl"), *SMALL, *steps)
    assert metrics["validation_records"] == 16
    again = [*files, "--model", str(tmp_path / "out"), "--disable_tqdm", "true", *steps]
    assert run(tmp_path, *again, output="more")["labels"] == ["high", "low"]


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_other_rates_are_resampled_as_scipy_does(rate, tmp_path):
    sound = tone(440, 0.4, rate)
    wanted = scipy_resample(sound, round(len(sound) * 16_000 / rate))
    np.testing.assert_allclose(resample(torch.from_numpy(sound), rate, 16_000).numpy(), wanted, atol=1e-9)
    read = read_sound(write(tmp_path / "a.wav", sound, rate)).numpy()
    np.testing.assert_allclose(read, wanted, atol=1e-4)
    at_home = tone(440, 0.4)
    middle = slice(800, len(at_home) - 800)
    assert abs(read[middle] - 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(read)) / 16_000)[middle]).max() < 0.15


@pytest.mark.parametrize("width", [1, 2, 4])
def test_stereo_becomes_one_channel_at_every_width(width, tmp_path):
    left, right = tone(300), tone(900, seed=1)
    read = read_sound(write(tmp_path / "a.wav", np.stack((left, right), axis=1), width=width))
    np.testing.assert_allclose(read.numpy(), (left + right) / 2, atol=2 / 2 ** (8 * min(width, 2) - 1))


def test_training_hides_bands_and_moves_sounds():
    plain = torch.arange(1.0, 41.0).reshape(10, 4)
    examples = [(plain, 0)] * 50
    values = SoundCollator(hidden=0.5, seed=1)(examples)["input_values"]
    hidden = values == 0
    assert hidden.any() and torch.equal(values[~hidden], plain.expand(50, -1, -1)[~hidden])
    assert torch.equal(hidden, hidden.all(2)[:, :, None] | hidden.all(1)[:, None])  # whole frames and whole bands
    moved = SoundCollator(shift=0.3, seed=1)(examples)["input_values"]
    starts = {float(each[0, 0]) for each in moved}
    assert starts <= {1.0, 5.0, 9.0, 13.0} and len(starts) > 2
    assert torch.equal(SoundCollator()(examples)["input_values"], plain.expand(50, -1, -1))


def test_what_cannot_be_used_ends_with_one_line(classes, tmp_path, capsys):
    def stopped(*argv):
        with pytest.raises(SystemExit) as stop:
            train_sounds.main(["--output_dir", str(tmp_path / "refused"), "--files", str(classes), *SMALL, *argv])
        return f"{stop.value.code} {capsys.readouterr().err}"

    for argv, message in (
        (["--hidden_share", "1"], "hidden_share=1.0 must be at least 0 and below 1."),
        (["--shift", "-1"], "shift=-1.0 must be at least 0 and below 1."),
        (["--num_mel_bins", "30"], "num_mel_bins=30 is not a multiple of patch_size=16"),
        (["--model", "x"], "are of a new model, but model='x'"),
        (["--metric_for_best_model", "acuracy"], "acuracy"),
        (["--files", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert message in stopped(*argv)
    other = tmp_path / "other"
    write(other / "middle" / "0.wav", tone(900))
    unknown = stopped("--validation_files", str(other))
    assert "validation_files have the classes ['middle'], which the training files lack." in unknown
    bad = classes / "low" / "bad.wav"
    for make, message in (
        (lambda: bad.write_bytes(b"RIFF"), "bad.wav' cannot be read as a WAV file"),
        (lambda: bad.write_bytes(b"OggS" * 40), "Convert other sounds to WAV."),
        (lambda: write(bad, tone(200), width=3), "bad.wav' has samples of 24 bits; a WAV file may have [8, 16, 32]."),
        (lambda: write(bad, []), "bad.wav' holds no sample."),
        (lambda: write(bad, tone(200, 0.01)), "bad.wav': waveform has 160 samples; a frame takes 400."),
    ):
        make()
        assert message in stopped(), message
    with pytest.raises(ValueError, match="rate=0 must be at least 1 sample a second."):
        resample(torch.zeros(9), 0, 16_000)
    with pytest.raises(ValueError, match="waveform holds no sample."):
        resample(torch.zeros(0), 8000, 16_000)


def test_silence_is_a_sound():
    assert log_mel(torch.zeros(800), 16_000, 32).isfinite().all() and math.isfinite(
        float(resample(torch.zeros(9), 3, 1)[0])
    )
