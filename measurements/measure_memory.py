"""Compute what fits where: memory of a training by RLOO, of known architectures; writes the table of distributed.md.

python -m measurements.measure_memory    seconds; nothing is trained

Weights, gradients and the optimizer's state are counted, from the architecture built without its numbers. What passes
need beside them is an estimate, by Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2, with attention that is not kept):
34 bytes a token and unit of width of a layer in bfloat16, of which with activation checkpointing one layer is there at
a time and 2 bytes of each other one, and the logits in float32 with their gradient.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from measurements.measured import write_table

GIB = 2**30
BATCH, TOKENS = 8, 1024
"""Responses at a time on each device, and tokens of each with its prompt."""
RANK = 16
SPARE = 0.9
"""What of a device's memory a training may take: the rest is the allocator's and the driver's."""
MODELS = {
    "SmolLM2-135M": ("llama", 576, 1536, 30, 9, 3, 49152, True),
    "Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "Qwen2.5-32B": ("qwen2", 5120, 27648, 64, 40, 8, 152064, False),
    "Llama-3.1-70B": ("llama", 8192, 28672, 80, 64, 8, 128256, False),
}
"""Kind, width, width of the inner layer, layers, heads, heads of keys, words, and whether the last layer is the first
one's, as the configurations that these models are published with say."""


@final
@dataclass(frozen=True)
class Architecture:
    """A model without its numbers."""

    kind: str
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    words: int
    tied: bool

    @cached_property
    def parameters(self) -> int:
        """All of its weights."""
        return sum(p.numel() for p in self._built().parameters())

    @cached_property
    def adapter(self) -> int:
        """The weights of a LoRA of RANK on all linear layers but the last, as peft counts them."""
        return sum(RANK * (a + b) for a, b in self._linear())

    def _linear(self) -> list[tuple[int, int]]:
        import torch

        named = self._built().named_modules()
        return [
            (m.in_features, m.out_features) for n, m in named if isinstance(m, torch.nn.Linear) and "lm_head" not in n
        ]

    def _built(self) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            self.kind, hidden_size=self.width, intermediate_size=self.inner, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.key_heads, vocab_size=self.words,
            tie_word_embeddings=self.tied, head_dim=self.width // self.heads,
        )  # fmt: skip
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    def passes(self) -> float:
        """Bytes of the activations of a forward with its backward on a batch, with activation checkpointing."""
        return BATCH * TOKENS * (self.width * (2.0 * self.layers + 34.0) + 10.0 * self.words)

    def lora(self, devices: int = 1) -> float:
        """Bytes on each device: a frozen backbone in bfloat16 (it is the reference too), an adapter in float32."""
        trained = self.adapter * (4 + 4 + 8)  # weights, gradients, Adam's two moments
        return (2 * self.parameters + trained) / devices + self.passes()

    def full(self, devices: int = 1) -> float:
        """Bytes on each device: weights, gradients and Adam in float32, and the reference beside them in float32."""
        return self.parameters * (4 + 4 + 8 + 4) / devices + self.passes()

    def fewest(self, kind: str, memory: float) -> str:
        """Return how many devices of so much memory it takes."""
        for devices in (1, 2, 4, 8, 16, 32, 64):
            if getattr(self, kind)(devices) <= SPARE * memory:
                return str(devices)
        return "smaller batches"


def rows() -> list[list[str]]:
    """Return the table's rows."""
    found = []
    for name, shape in MODELS.items():
        one = Architecture(*shape)
        found.append(
            [
                name, f"{one.parameters / 1e9:.2f}", f"{one.lora() / GIB:.0f}", f"{one.full() / GIB:.0f}",
                f"{one.passes() / GIB:.0f}", one.fewest("lora", 24 * GIB), one.fewest("lora", 80 * GIB),
                one.fewest("full", 80 * GIB),
            ]
        )  # fmt: skip
    return found


def main() -> None:
    """Write the table."""
    heads = [
        "model", "parameters, 10^9", "LoRA, GiB on one", "full, GiB on one", "of these passes", "LoRA: GPUs of 24 GiB",
        "LoRA: GPUs of 80 GiB", "full: GPUs of 80 GiB",
    ]  # fmt: skip
    write_table("distributed.md", "memory", heads, rows())


if __name__ == "__main__":
    main()
