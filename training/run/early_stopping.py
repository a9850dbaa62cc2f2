"""Ending a training whose evaluations get no better, and saying so."""

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments


class SpokenEarlyStopping(EarlyStoppingCallback):
    """Ends training after `early_stopping_patience` evaluations in a row without an improvement; prints one line."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics, **kwargs):
        before = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop and not before and state.is_world_process_zero:
            count, best = self.early_stopping_patience_counter, state.best_metric
            print(
                f"Stopped early at step {state.global_step} of {state.max_steps}: {count} evaluations without a "
                f"better {args.metric_for_best_model} than {best:.4f}, of step {state.best_global_step}."
            )
