"""A training that ends early says so, and when it was best."""

from transformers import TrainerControl, TrainerState, TrainingArguments

from trine.training.run.callbacks import SpokenEarlyStopping


def test_one_line_says_when_and_why(tmp_path, capsys):
    training = TrainingArguments(
        str(tmp_path), metric_for_best_model="eval_loss", greater_is_better=False, use_cpu=True, report_to="none"
    )
    callback, control = SpokenEarlyStopping(2), TrainerControl()
    state = TrainerState(max_steps=100, best_metric=1.25, best_global_step=30, is_world_process_zero=True)
    for step, loss in ((40, 1.5), (50, 1.1), (60, 1.5), (70, 1.5)):
        assert not control.should_training_stop and capsys.readouterr().out == ""
        state.global_step = step
        callback.on_evaluate(training, state, control, {"eval_loss": loss})
    assert control.should_training_stop
    callback.on_evaluate(training, state, control, {"eval_loss": 1.5})
    assert capsys.readouterr().out == (
        "Stopped early at step 70 of 100: 2 evaluations without a better eval_loss than 1.2500, of step 30.\n"
    )
