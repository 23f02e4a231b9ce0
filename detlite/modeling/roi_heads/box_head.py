"""From pooled features to one vector per box."""

from torch import nn

from detlite.registry import BOX_HEADS


@BOX_HEADS.register()
class FCBoxHead(nn.Module):
    """VGG's two fully connected layers, fc6 and fc7, each with ReLU and, in training, dropout.

    Args:
        fc_dim: width of both layers.
        dropout: probability of dropping an output in training; 0 for none.
    """

    def __init__(self, in_channels, resolution, *, fc_dim: int = 4096, dropout: float = 0.5):
        super().__init__()
        self.fc6 = nn.Linear(in_channels * resolution**2, fc_dim)
        self.fc7 = nn.Linear(fc_dim, fc_dim)
        self.dropout = nn.Dropout(dropout)
        self.out_features = fc_dim
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled):
        """(S, C, P, P) -> (S, fc_dim)."""
        hidden = self.dropout(self.fc6(pooled.flatten(1)).relu())
        return self.dropout(self.fc7(hidden).relu())
