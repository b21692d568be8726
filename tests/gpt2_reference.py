"""Makes `fixtures/gpt2.safetensors` and `fixtures/gpt2_logits.npz` with the GPT-2 of Hugging Face's `transformers`.

The tests read only the two files, so they need neither torch nor transformers. To make the files again:

    python -m venv reference && reference/bin/pip install torch==2.13.0 transformers safetensors numpy
    reference/bin/python tests/gpt2_reference.py
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

FIXTURES = Path(__file__).parent / "fixtures"


def main():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=100, n_positions=16, n_embd=24, n_layer=3, n_head=3, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weights in model.parameters():  # far from the initial values, so that every bias and gain has its part
            weights.add_(0.2 * torch.randn_like(weights))
        tokens = torch.randint(config.vocab_size, (3, 16))
        logits = model(tokens).logits
    published = {name: weights.contiguous() for name, weights in model.transformer.state_dict().items()}
    mask = torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16)
    for layer in range(config.n_layer):  # the published files have the causal masks too
        published[f"h.{layer}.attn.bias"] = mask.clone()
    FIXTURES.mkdir(exist_ok=True)
    save_file(published, FIXTURES / "gpt2.safetensors", metadata={"format": "pt"})
    np.savez(FIXTURES / "gpt2_logits.npz", tokens=tokens.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    main()
