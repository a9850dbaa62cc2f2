"""Models, batches and trainers of the tests of distillation."""

import torch
from support.tiny import random_ids, tiny_config, tiny_model
from transformers import TrainingArguments

from trine import TrineForConditionalGeneration, TrineModel, TrineSeq2SeqConfig
from trine.training.objectives.distillation.base import DistillationOptions
from trine.training.run.distillation import DistillationTrainer


LENGTHS = (9, 4, 1, 6)


def make_trainer(tmp_path, student, teacher, embeddings=None, bf16=False, **options):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True, bf16=bf16)
    distillation = DistillationOptions(**options)
    return DistillationTrainer(
        student, arguments, teacher_model=teacher, distillation=distillation, embeddings=embeddings
    )


def padded_batch(**more):
    ids = random_ids(len(LENGTHS), max(LENGTHS))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, **more}


def loss_of(trainer, batch):
    return trainer.compute_loss(trainer.model.train(), dict(batch))


def encoder(**fields):
    return tiny_model(TrineModel, is_causal=False, **fields)


def translator(seed=0, **fields):
    torch.manual_seed(seed)
    sides = [tiny_config(is_causal=False), tiny_config(is_causal=True)]
    config = TrineSeq2SeqConfig(encoder=sides[0], decoder=sides[1], pad_token_id=0, decoder_start_token_id=1, **fields)
    return TrineForConditionalGeneration(config).double()
