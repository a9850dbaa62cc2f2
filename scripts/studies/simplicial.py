"""Compare dot-product with 2-simplicial attention, at equal parameters and tokens, over several seeds."""

from collections.abc import Sequence

from trine.scripts.studies.simplicial_experiments import EXPERIMENTS
from trine.scripts.studies.study import Study, run_study


STUDY = Study(
    command="study simplicial",
    heading="2-simplicial attention",
    introduction=(
        "Does attention to pairs of tokens help? Small models with dot-product attention, with 2-simplicial attention "
        "and with layers of both in turn (hybrid; dot-product attention first). Within a table all see the same "
        "batches for the same number of steps at the same learning rate, and have the same number of parameters: "
        "feed-forwards are widened where there are fewer projections. Time is not equal: see the seconds, on one CPU "
        "thread. The mean training loss, in nats, is over all steps, each on a batch that had not been seen before: "
        "the faster a model learns, the lower. Made by `trine study simplicial`. Numbers are means over seeds, with "
        "the smallest and the largest."
    ),
    output_dir="outputs/simplicial",
    experiments=EXPERIMENTS,
)


def main(argv: Sequence[str] | None = None) -> None:
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()
