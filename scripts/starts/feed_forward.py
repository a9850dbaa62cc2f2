"""A feed-forward whose activation is a square of a rectifier."""

from torch import nn

from trine import register_feed_forward


@register_feed_forward("start")
class Start(nn.Module):
    """`down(relu(up(x))^2)` on every token by itself."""

    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states):
        """Maps (batch, length, hidden) to the same shape. Linear layers are filled by themselves."""
        return self.down_proj(self.up_proj(hidden_states).relu().square())
