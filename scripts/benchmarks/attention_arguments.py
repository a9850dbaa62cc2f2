"""The options of `trine benchmark attention`."""

from dataclasses import dataclass, field

from trine import PairwiseAttention
from trine.configuration.kinds import ATTENTION_KINDS
from trine.configuration.plugin_rows import PLUGINS
from trine.scripts.benchmarks.attention_layers import EAGER, all_ways


SHAPES = {"decoder": True, "encoder": False}


@dataclass
class AttentionBenchmarkArguments:
    """Options of `trine benchmark attention`."""

    kinds: list[str] = field(
        default_factory=all_ways, metadata={"help": f"Which of {', '.join(all_ways())} to measure."}
    )
    shape: str = field(default="decoder", metadata={"help": f"One of {', '.join(SHAPES)}."})
    lengths: list[int] = field(
        default_factory=lambda: [512 * 2**power for power in range(7)], metadata={"help": "Tokens."}
    )
    rounds: int = field(
        default=3, metadata={"help": "Measurements of each, all in turn; up to 4 times as many below 8192 tokens."}
    )
    fit_from: int = field(
        default=2048, metadata={"help": "Shortest text that exponents are fitted to: below, constants count."}
    )
    longest_full: int = field(
        default=16384, metadata={"help": "Longest text of full attention, and longest context of decoding."}
    )
    longest_eager: int = field(
        default=4096, metadata={"help": f"Longest text of '{EAGER}' and the like, which write all pairs."}
    )
    peer_length: int = field(default=2048, metadata={"help": "Tokens beside other implementations; 0: no such rows."})
    output_dir: str = field(default="outputs/attention", metadata={"help": "Folder of plots and raw numbers."})
    report: str = field(
        default="docs/measurements/benchmarks.md", metadata={"help": "Markdown file whose part is replaced."}
    )

    def __post_init__(self):
        unknown = [name for name in self.kinds if name not in all_ways()]
        if unknown or not self.kinds:
            raise ValueError(f"kinds={self.kinds} are not among {all_ways()}.")
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is not one of {list(SHAPES)}.")
        for name in self.kinds if not self.is_causal else ():
            if name in ATTENTION_KINDS and ATTENTION_KINDS[name].causal_only:
                raise ValueError(f"kinds has {name!r}, which encoders cannot have: name the others.")
        for name in ("rounds", "lengths"):
            value = getattr(self, name)
            if not value or min(value if isinstance(value, list) else [value]) < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if self.peer_length % 128:
            raise ValueError(f"peer_length={self.peer_length} must be a multiple of 128: some peers cut blocks.")

    @property
    def is_causal(self) -> bool:
        """Whether layers are those of a decoder."""
        return SHAPES[self.shape]

    def rounds_of(self, length: int) -> int:
        """The number of rounds at a length: short texts are quick and vary more, so they get more."""
        return self.rounds * min(4, max(1, 8192 // length))

    def ways_of(self, length: int) -> list[str]:
        """The kinds that are measured at a length."""
        longest = {"full": self.longest_full} | dict.fromkeys((EAGER, *written_out()), self.longest_eager)
        return [way for way in self.kinds if length <= longest.get(way, length)]


def written_out() -> list[str]:
    """The kinds of plugins that write all pairs of tokens out."""
    return [plugin.name for plugin in PLUGINS if issubclass(plugin.mechanism, PairwiseAttention)]
