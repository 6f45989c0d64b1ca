"""Post-norm transformer encoder and decoder over unordered point tokens, with the names of HOISDF's checkpoints."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "Transformer", "block_mask"]


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each followed by a layer norm."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x, x, x, need_weights=False)[0]))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(torch.relu(self.linear1(x))))))


class Encoder(nn.Module):
    """Layers, and one shared norm for the copies of each layer's output that the heads read."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, hidden, dropout) for _ in range(layers))
        self.inter_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> tuple[Tensor, Float[Tensor, "L B N C"]]:
        """(memory: the last layer's output, the normed output of every layer)."""
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens)
            outputs.append(self.inter_norm(tokens))
        return tokens, torch.stack(outputs)


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the memory, perceptron."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        named = x + query
        x = self.norm1(x + self.dropout(self.self_attn(named, named, x, attn_mask=mask, need_weights=False)[0]))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query, memory, memory, need_weights=False)[0]))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(torch.relu(self.linear1(x))))))


class Decoder(nn.Module):
    """Layers and a shared norm of their outputs."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, query: Float[Tensor, "Q C"], memory: Float[Tensor, "B N C"], mask: Bool[Tensor, "Q Q"]
    ) -> Float[Tensor, "L B Q C"]:
        queries = query.expand(len(memory), -1, -1)
        x = torch.zeros_like(queries)
        outputs = []
        for layer in self.layers:
            x = layer(x, queries, memory, mask)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """An encoder, and a decoder where ``decoder_layers`` is not 0."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, decoder_layers: int, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder(dim, heads, hidden, layers, dropout)
        if decoder_layers:
            self.decoder = Decoder(dim, heads, hidden, decoder_layers, dropout)


def block_mask(sizes: tuple[int, ...]) -> Bool[Tensor, "Q Q"]:
    """True where attention is forbidden: queries see their own block only (a finger its own three joints)."""
    blocks = torch.tensor([block for block, size in enumerate(sizes) for _ in range(size)])
    return blocks[:, None] != blocks[None]
