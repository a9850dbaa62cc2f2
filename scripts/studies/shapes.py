"""Compare what encoders, recurrent models and Transformers learn from real data, over several seeds."""

from collections.abc import Sequence

from trine.scripts.studies.shape_experiments import EXPERIMENTS
from trine.scripts.studies.study import Study, run_study


STUDY = Study(
    command="study shapes",
    heading="Encoders, recurrent models and Transformers",
    introduction=(
        "What small models learn from real data in minutes on one CPU thread each. Made by `trine study shapes` from "
        "the sets that `trine data fetch` builds. Numbers are means over seeds, with the smallest and the largest."
    ),
    output_dir="outputs/shapes",
    experiments=EXPERIMENTS,
)


def main(argv: Sequence[str] | None = None) -> None:
    run_study(STUDY, argv, description=__doc__)


if __name__ == "__main__":
    main()
