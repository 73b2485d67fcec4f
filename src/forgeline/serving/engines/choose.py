"""The next token: the likeliest, or one drawn; and how likely it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forgeline.serving.engines import GenerationRequest, TokenLogprob

if TYPE_CHECKING:
    import torch

# Among so many a nucleus is sought before the whole vocabulary is sorted, which takes as long as the model.
CANDIDATES = 1024


class Chooser:
    """How one request chooses its tokens; a seed repeats them."""

    def __init__(self, request: GenerationRequest, device: torch.device) -> None:
        import torch

        self._request = request
        self._dice = torch.Generator(device)
        if request.seed is None:
            self._dice.seed()
        else:
            self._dice.manual_seed(request.seed)

    def choose(self, scores: torch.Tensor) -> int:
        """Return the likeliest token, or one drawn from the nucleus (Holtzman et al., 2020); (vocabulary) scores."""
        import torch

        request = self._request
        if request.temperature == 0:
            return int(scores.argmax())
        probabilities = torch.softmax(scores / request.temperature, dim=-1)
        if request.top_p == 1:
            return int(torch.multinomial(probabilities, 1, generator=self._dice))
        ranked, order = probabilities.topk(min(CANDIDATES, len(probabilities)))
        if ranked.sum() < request.top_p:
            ranked, order = probabilities.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= request.top_p] = 0  # the likeliest always stays
        return int(order[torch.multinomial(ranked, 1, generator=self._dice)])

    def logprobs(self, scores: torch.Tensor, token: int, tokenizer: Any) -> tuple[TokenLogprob, ...]:
        """Return what a request wants to know of a chosen token: log-probabilities before any temperature."""
        import torch

        wanted = self._request.logprobs
        if wanted is None:
            return ()
        likelihoods = torch.log_softmax(scores, dim=-1)
        best = likelihoods.topk(wanted)
        top = zip(map(tokenizer.decode, best.indices.tolist()), best.values.tolist(), strict=True)
        return (TokenLogprob(tokenizer.decode(token), float(likelihoods[token]), tuple(top)),)
