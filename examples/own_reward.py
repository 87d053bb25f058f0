"""A game with your own rewards, in ten lines; the model is the demo's."""

from rlhf_game import KL, AffinePayments, Mechanism, Report, SocialWelfare
from rlhf_game.outcomes import Candidates


def short(prompts, completions, **columns):
    """Return more for fewer words."""
    return [1 / (1 + len(text.split())) for text in completions]


def polite(prompts, completions, **columns):
    """Return 1 for a text that thanks."""
    return [float("thank" in text.lower()) for text in completions]


prompts = ["Write one sentence to a customer whose parcel is late.", "Say hello to a new customer."]
responses = Candidates.draw("smollm2-135m-instruct", prompts, 8, KL(0.1), seed=0, max_new_tokens=24, temperature=0.7)
settlement = Mechanism(SocialWelfare(), AffinePayments()).settle([Report(short, size=3), Report(polite)], responses)
print(settlement.payments, settlement.utilities)
