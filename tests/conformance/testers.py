"""The small models and inputs of a case, under the names that the common tests look for."""

from typing import Any

import torch
from conformance.cases import Run


BATCH_SIZE, LENGTH = 13, 7
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


def tokens(vocab_size: int) -> torch.Tensor:
    """Ids that are no special tokens, (batch, length)."""
    return torch.randint(3, vocab_size, (BATCH_SIZE, LENGTH))


def padding_mask() -> torch.Tensor:
    """A mask in which the first sequences are shorter, (batch, length)."""
    return torch.ones(BATCH_SIZE, LENGTH, dtype=torch.long).tril()


class StackTester:
    """Makes the configuration and the inputs of a decoder or an encoder."""

    is_training = True
    batch_size = BATCH_SIZE
    seq_length = LENGTH
    num_choices = 4

    def __init__(self, run: Run):
        self.run = run
        stacks = self.stacks()
        self.source_vocab_size, self.vocab_size = stacks[0].vocab_size, stacks[-1].vocab_size
        for name in SIZES:
            setattr(self, name, getattr(stacks[-1], name, None))
        # The tests of training and distribution look for the model under this name.
        self.causal_lm_class = run.model_class

    def get_config(self):
        return self.run.case.config_class(**self.run.case.fields)

    def stacks(self) -> list:
        """The configurations that have the sizes, the one that predicts last."""
        return [self.get_config()]

    def config_fields(self) -> dict[str, Any]:
        """What the tests of the configuration set, save and expect again: not what no layer of the case reads."""
        settled = self.get_config()
        return {name: value for name, value in self.run.case.fields.items() if getattr(settled, name) is not None}

    def prepare_config_and_inputs_for_common(self):
        inputs = {"input_ids": tokens(self.vocab_size), "attention_mask": padding_mask()}
        if self.run.case.fields.get("type_vocab_size"):
            inputs["token_type_ids"] = torch.randint(self.run.case.fields["type_vocab_size"], (BATCH_SIZE, LENGTH))
        return self.get_config(), inputs


class Seq2SeqTester(StackTester):
    """Makes the configuration and the inputs of an encoder-decoder."""

    encoder_seq_length = decoder_seq_length = LENGTH

    def stacks(self) -> list:
        config = self.get_config()
        return [config] if len(self.run.case.stacks()) == 1 else [config.encoder, config.decoder]

    def config_fields(self) -> dict[str, Any]:
        """All that differs from the defaults, also what the config sets in its stacks."""
        written = self.get_config().to_diff_dict()
        return {name: written[name] for name in self.run.case.fields}

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        source = tokens(self.source_vocab_size)
        source[:, -1] = config.eos_token_id  # T5's classifier looks for it
        return config, {
            "input_ids": source,
            "attention_mask": padding_mask(),
            "decoder_input_ids": tokens(self.vocab_size),
            "decoder_attention_mask": padding_mask(),
        }


class EncoderOfTwoTester(Seq2SeqTester):
    """Makes the configuration of an encoder-decoder, and the inputs of its encoder."""

    def stacks(self) -> list:
        return super().stacks()[:1]

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_ids": tokens(self.vocab_size), "attention_mask": padding_mask()}


TESTERS = {
    "decoder": StackTester,
    "encoder": StackTester,
    "encoder-decoder": Seq2SeqTester,
    "encoder of two": EncoderOfTwoTester,
    "recurrent": Seq2SeqTester,
}
