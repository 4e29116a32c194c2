"""A model whose every tensor is random, so that no bias or scale hides behind 0 or 1."""

import torch

from pretrain.model import GPT, GPTConfig, initialise


def random_model(config: GPTConfig, *, noise: float = 0.3, end_of_text: int | None = None) -> GPT:
    """Return the model for evaluation, the same each time."""
    gpt = GPT(config, end_of_text=end_of_text)
    initialise(gpt, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return gpt.eval()
