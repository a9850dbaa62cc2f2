"""Models of sounds: spectrograms as transformers makes them, and patches of bands and frames in the stream."""

import wave
from functools import partial

import numpy as np
import pytest
import torch
from support import reference
from support.messages import unseen
from support.pictures import random_images
from support.reference.patches import image_tokens
from support.tiny import leaves, tiny_config, tiny_model
from transformers import ASTFeatureExtractor, AutoModelForAudioClassification, pipeline

from trine import TrineForAudioClassification, TrineModel
from trine.configuration.kinds import ATTENTION_KINDS
from trine.training.data.sounds import log_mel, read_sound, resample


AUDIO = {"input_type": "audio", "is_causal": False, "num_mel_bins": 8, "num_frames": 12, "patch_size": 4}


def audio_model(model_class=TrineModel, **fields):
    return tiny_model(model_class, **{**AUDIO, **fields})


def tone(frequency: float, seconds: float = 0.5, seed: int = 0) -> torch.Tensor:
    """A tone with noise, at 16 kHz."""
    time = torch.arange(int(16_000 * seconds)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return 0.5 * torch.sin(2 * torch.pi * frequency * time) + 0.05 * noise


@pytest.mark.parametrize("seconds", [0.03, 0.5, 1.7])
@pytest.mark.parametrize("num_mel_bins", [32, 128])
def test_spectrograms_are_those_of_transformers(seconds, num_mel_bins):
    sound = tone(440, seconds)
    extractor = ASTFeatureExtractor(num_mel_bins=num_mel_bins, max_length=128)
    expected = extractor(sound.numpy(), sampling_rate=16_000, return_tensors="pt")["input_values"][0]
    actual = log_mel(sound, 16_000, num_mel_bins, num_frames=128)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    whole = log_mel(sound, 16_000, num_mel_bins, patch_size=16)
    assert len(whole) % 16 == 0 and len(whole) - 16 < 1 + (len(sound) - 400) // 160 <= len(whole)
    torch.testing.assert_close(whole[:128], expected[: len(whole)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position_type", ["none", "learned", "sinusoidal"])
def test_outputs_are_those_of_the_loops(position_type):
    """A spectrogram is a grey picture whose rows are bands and whose columns are frames."""
    model = audio_model(position_type=position_type, num_register_tokens=1)
    sounds, tensors = random_images(2, 12, 8), leaves(model)
    config = tiny_config(**{**AUDIO, "position_type": position_type, "num_register_tokens": 1})
    for sound, actual in zip(sounds, model(input_values=sounds).last_hidden_state, strict=True):
        vectors = image_tokens(config, reference.Weights(tensors)["embed_tokens"], sound.T[None])
        plain = tiny_config(**{**AUDIO, "position_type": "none"})
        table = reference.Weights({**tensors, "embed_tokens.weight": vectors})
        expected = reference.trunk(plain, table, list(range(len(vectors))))
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(model(input_features=sounds).last_hidden_state, model(input_values=sounds).last_hidden_state)


@pytest.mark.parametrize("kind", sorted(ATTENTION_KINDS))
def test_sounds_of_different_lengths_go_in_one_row(kind):
    model = audio_model(TrineForAudioClassification, attention_types=kind, num_labels=3)
    sounds = [random_images(4 * length, 8, seed=length) for length in (3, 1, 5)]
    row = model(input_values=sounds, labels=torch.tensor([0, 2, 1]))
    alone = torch.cat([model(input_features=sound[None]).logits for sound in sounds])
    if kind == "bigbird":  # whose random blocks are drawn for places in the row
        row.logits, alone = row.logits[:1], alone[:1]
    torch.testing.assert_close(row.logits, alone, rtol=1e-6, atol=1e-7)
    if kind != "bigbird":
        loss = -alone.log_softmax(-1)[range(3), [0, 2, 1]].mean()
        torch.testing.assert_close(row.loss, loss, check_dtype=False)


def test_tones_are_learned_saved_and_named_by_the_pipeline(tmp_path):
    torch.manual_seed(0)
    fields = {"num_mel_bins": 32, "num_frames": 48, "patch_size": 16, "id2label": {0: "low", 1: "high"}}
    model = TrineForAudioClassification(tiny_config(**{**AUDIO, **fields}))
    frequencies = [200, 3000] * 4
    sounds = torch.stack(
        [log_mel(tone(f, 0.48, seed), 16_000, 32, num_frames=48) for seed, f in enumerate(frequencies)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        model(input_values=sounds, labels=torch.tensor([0, 1] * 4)).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=32, max_length=48).save_pretrained(tmp_path)
    assert type(AutoModelForAudioClassification.from_pretrained(tmp_path)) is TrineForAudioClassification
    classify = pipeline("audio-classification", model=str(tmp_path))
    for frequency, name in ((210, "low"), (2900, "high")):
        assert classify(tone(frequency, 0.48, seed=77).numpy().astype(np.float32))[0]["label"] == name
    assert "pipeline_tag: audio-classification" in model.render_card()


SOUNDS, SOUND = random_images(1, 12, 8), tone(440)
ERRORS = {
    "bands": (
        lambda: audio_model()(input_values=random_images(1, 12, 6)),
        "input_values have shape (1, 12, 6), but must",
    ),
    "frames": (
        lambda: audio_model()(input_values=SOUNDS[:, :10]),
        "input_values have 10 frames, which is not a multiple of",
    ),
    "pictures": (
        lambda: audio_model()(pixel_values=SOUNDS),
        "pixel_values is read with input_type='image', but this model",
    ),
    "sounds": (
        lambda: tiny_model()(input_features=SOUNDS),
        "input_features is read with input_type='audio', but this",
    ),
    "rate": (lambda: log_mel(SOUND, 44_100), "sampling_rate=44100 must be 16000: resample the sound before."),
    "stereo": (
        lambda: log_mel(torch.stack((SOUND, SOUND)), 16_000),
        "waveform has shape (2, 8000), but must be one channel",
    ),
    "short": (lambda: log_mel(SOUND[:399], 16_000), "waveform has 399 samples; a frame takes 400."),
    "gap": (lambda: log_mel(SOUND / 0 * 0, 16_000), "waveform holds values that are not finite."),
    "bands of a patch": (
        lambda: tiny_config(**{**AUDIO, "num_mel_bins": 6}),
        "num_mel_bins=6 is not a multiple of patch_size",
    ),
    "head": (
        lambda: TrineForAudioClassification(tiny_config(is_causal=False)),
        "input_type='tokens', but TrineForAudioClassification needs input_type='audio'.",
    ),
}


def message_of(case: str) -> str:
    with pytest.raises(ValueError) as caught:
        ERRORS[case][0]()
    return str(caught.value)


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_named(case):
    assert ERRORS[case][1] in message_of(case)


def messages_of_files(folder):
    """The messages for files that cannot be read, and for sounds that cannot be resampled."""
    (folder / "broken.wav").write_bytes(b"RIFF")
    for name, width, samples in (("wide", 3, bytes(300)), ("silent", 2, b"")):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, width, 16_000, 0, "NONE", ""))
            file.writeframes(samples)
    calls = [partial(read_sound, folder / f"{name}.wav") for name in ("broken", "wide", "silent")]
    calls += [partial(resample, torch.zeros(size), rate, 16_000) for size, rate in ((9, 0), (0, 8_000))]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        yield str(caught.value)


def test_every_error_of_sounds_is_tested(tmp_path):
    messages = [*[message_of(case) for case in ERRORS], *messages_of_files(tmp_path)]
    places = unseen("modeling/inputs", messages) + unseen("training/data", messages)
    assert [place for place in places if "sounds.py" in place] == []
