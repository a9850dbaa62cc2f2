"""Compare what models of each attention kind find again far back in a text, and copy, over several seeds."""

from collections.abc import Sequence

from trine.scripts.studies.recall_experiments import EXPERIMENTS, LENGTH, WINDOW, draw_runs
from trine.scripts.studies.study import Study, run_study


STUDY = Study(
    command="study recall",
    heading="What each attention kind recalls",
    introduction=(
        "Small decoders that differ in the attention of their 2 layers only (hidden size 64, 2 heads, rotary "
        "positions); rows with two kinds have one in each layer. All see the same batches, no text twice, for equally "
        f"many steps at the same learning rate. Texts have {LENGTH} tokens; windows and chunks have {WINDOW}, so "
        "that two layers of windows reach less than half of the distance of a copy; blocks (8 tokens: a global, two "
        "window and a random one) and hashed chunks (two of 16, 2 hashes) see about as much at a time. Time is not "
        "equal: see the seconds, on one CPU thread. The mean training loss, in nats an answer, is over all steps. "
        "Made by `trine study recall`, which also draws learning curves and accuracies by distance. Numbers are means "
        "over seeds, with the smallest and the largest."
    ),
    output_dir="outputs/recall",
    experiments=EXPERIMENTS,
    draw=draw_runs,
)


def main(argv: Sequence[str] | None = None) -> None:
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()
