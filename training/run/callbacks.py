"""Callbacks between optimizer steps: load of experts, new random features, early stopping, and Ctrl-C."""

# Shapes: T tokens, L sparse layers, E experts, C experts per token.

import signal
import threading
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...modeling.attention.performer import PerformerAttention
from ...modeling.feed_forward.balancing import flatten_mask
from ...modeling.feed_forward.routers import TrineRouter


class ExpertLoadCallback(TrainerCallback):
    """Count the tokens of each expert while a model trains, log the load, and balance routers that have a bias.

    Counted are the choices of the training forward passes of an optimizer step: over all its micro-batches and all
    processes, without evaluation, without the recomputation of gradient checkpointing, and without padding where the
    model gets a two-dimensional attention mask.

    After each step, routers with `e_score_correction_bias` learn to prefer idle experts:
    `bias += router_bias_update_rate * sign(mean load - load)`. No gradient and no loss takes part in this. A router
    that is frozen keeps its bias.

    With each logged training loss, `expert_load_worst` is the load of the busiest expert of the worst layer over
    the mean load (1 is even, E / C is the most), since the last log. `trainer.state.log_history`
    also holds `expert_load`, L lists of E shares. A model without routers is left alone.

    Source: DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 2.1.2.
    """

    def __init__(self):
        self.routers: list[TrineRouter] = []
        self._handles = []
        self._is_forward = False  # a training forward pass is under way; recomputation takes place outside of it
        self._attention_mask: Tensor | None = None
        self._step_load = torch.zeros(0, 0)  # (L, E), choices since the last optimizer step, of this process
        self._logged_load = torch.zeros(0, 0)  # (L, E), choices since the last log, of all processes

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Begins to count, by hooks on the model and its routers."""
        model: nn.Module = kwargs["model"]
        self._remove_hooks()
        self.routers = [module for module in model.modules() if isinstance(module, TrineRouter)]
        if not self.routers:
            return
        self._step_load = torch.zeros(len(self.routers), self.routers[0].num_experts, device=args.device)
        self._logged_load = torch.zeros_like(self._step_load)
        self._handles = [
            model.register_forward_pre_hook(self._open, with_kwargs=True),
            model.register_forward_hook(self._close, always_call=True),
            *(
                router.register_forward_hook(self._counter(layer_load))
                for router, layer_load in zip(self.routers, self._step_load, strict=True)
            ),
        ]

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Sums the load over processes, and updates the biases of routers that have one."""
        if not self.routers:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._step_load)
        for router, load in zip(self.routers, self._step_load, strict=True):
            bias = getattr(router, "e_score_correction_bias", None)
            if bias is not None and is_trained(router):
                with torch.no_grad():
                    bias += router.config.router_bias_update_rate * (load.mean() - load).sign().to(bias)
        self._logged_load += self._step_load
        self._step_load.zero_()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Adds the load since the last log to the training loss."""
        logs: dict[str, Any] = kwargs["logs"]
        if not self.routers or "loss" not in logs:
            return
        shares = self._logged_load / self._logged_load.sum(1, keepdim=True).clamp(min=1)
        logs["expert_load_worst"] = round(shares.max().item() * shares.shape[1], 3)
        # the trainer has copied the logs into its history before it calls back
        entry = cast(dict[str, Any], state.log_history[-1])
        entry |= {"expert_load_worst": logs["expert_load_worst"], "expert_load": shares.tolist()}
        self._logged_load.zero_()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Removes the hooks."""
        self._remove_hooks()

    def _remove_hooks(self):
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _open(self, module: nn.Module, args: tuple, kwargs: dict):
        self._is_forward = module.training
        self._attention_mask = kwargs.get("attention_mask")

    def _close(self, module: nn.Module, args: tuple, output):
        self._is_forward = False
        self._attention_mask = None

    def _counter(self, layer_load: Tensor):
        """The hook of one router; `layer_load` (E) is its row of the counts."""

        def count(router: nn.Module, args: tuple, output: tuple[Tensor, Tensor, Tensor]):
            if not self._is_forward:
                return
            router_logits, _, top_k_index = output  # (T, E), (T, C), (T, C)
            mask = self._attention_mask
            if mask is not None and mask.ndim != 2:
                mask = None
            weights = flatten_mask(mask, router_logits).unsqueeze(1).expand_as(top_k_index)
            layer_load.index_add_(0, top_k_index.flatten(), weights.flatten())

        return count


def is_trained(module: nn.Module) -> bool:
    """Whether not all of a module is frozen."""
    return any(parameter.requires_grad for parameter in module.parameters())


class RandomFeatureCallback(TrainerCallback):
    """Draw new random features for `performer` layers every `config.performer_redraw_interval` optimizer steps.

    They are drawn before the first step that uses them, so that a model is saved, evaluated and left with the features
    that it was trained with last. What is drawn follows from the number of the step and from buffers of the layers: a
    resumed run draws the same, and so does every process. A model without such layers is left alone, and so are
    layers whose interval is 0, and frozen ones.

    Source: Choromanski et al. 2020, arXiv 2009.14794, section 4.2.
    """

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Draws new features if their interval is over."""
        model: nn.Module = kwargs["model"]
        for module in model.modules():
            if isinstance(module, PerformerAttention) and is_trained(module):
                interval = module.config.performer_redraw_interval
                if interval and state.global_step and state.global_step % interval == 0:
                    module.redraw()


class InterruptCallback(TrainerCallback):
    """Handles Ctrl-C and SIGTERM: finishes the step, saves a checkpoint and ends; a second signal stops at once.

    Where several processes train, a signal to one of them ends all, after the same step.

    `interrupted` tells afterwards whether that happened.
    """

    def __init__(self):
        self.interrupted = False
        self._previous_handlers = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Takes over the handling of both signals."""
        self.interrupted = False
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no signal handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._interrupt)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Ends training with a checkpoint, in all processes, after a signal to one of them."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            flag = torch.tensor(float(self.interrupted), device=args.device)
            torch.distributed.all_reduce(flag)
            self.interrupted = flag.item() > 0
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Restores the former handling of signals."""
        self._restore()

    def _interrupt(self, signal_number: int, frame):
        self.interrupted = True
        print("\nInterrupted: saving a checkpoint after this step. Press Ctrl-C again to stop at once.", flush=True)
        self._restore()

    def _restore(self):
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())


class SpokenEarlyStopping(EarlyStoppingCallback):
    """Ends training after `early_stopping_patience` evaluations in a row without an improvement; prints one line."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics, **kwargs):
        """Counts evaluations without an improvement; prints a line if training ends."""
        before = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop and not before and state.is_world_process_zero:
            count, best = self.early_stopping_patience_counter, state.best_metric
            print(
                f"Stopped early at step {state.global_step} of {state.max_steps}: {count} evaluations without a "
                f"better {args.metric_for_best_model} than {best:.4f}, of step {state.best_global_step}."
            )
