from __future__ import annotations

from itertools import pairwise

import pytest
from scene import HELLO

from forgeline.models import LanguageModel, encode_prompt, generate
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused
from forgeline.serving.engines.text import TextStream
from forgeline.serving.engines.transformers import answer


def ask(model: LanguageModel, **settings: object) -> list[Piece]:
    request = GenerationRequest(**{"messages": HELLO, "max_tokens": 24, "temperature": 0.0, **settings})  # type: ignore[arg-type]
    return list(answer(model, request))


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_greedy_decoding_is_what_evaluation_generates(model: LanguageModel) -> None:
    reply = generate(model, [encode_prompt(model.tokenizer, HELLO)], max_new_tokens=24)[0]
    pieces = ask(model)
    assert text(pieces).strip() == reply.text
    assert pieces[-1].usage.completion_tokens == reply.tokens
    assert pieces[-1].finish_reason == ("stop" if reply.stopped else "length")


def test_a_seed_repeats_a_sample(model: LanguageModel) -> None:
    first, second, other = (text(ask(model, temperature=1.0, seed=seed)) for seed in (7, 7, 8))
    assert first == second != other


def test_a_vanishing_nucleus_is_greedy(model: LanguageModel) -> None:
    assert text(ask(model, temperature=1.5, top_p=1e-6)) == text(ask(model))


def test_a_stop_string_ends_the_reply_before_it(model: LanguageModel) -> None:
    whole = text(ask(model))
    stop = whole[len(whole) // 2 :][:7]
    pieces = ask(model, stop=(stop, "never said"))
    assert text(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_the_reply_has_a_piece_for_each_token(model: LanguageModel) -> None:
    counts = [piece.usage.completion_tokens for piece in ask(model, max_tokens=5)]
    assert counts == [1, 2, 3, 4, 5]


def test_a_prompt_that_does_not_fit_is_refused(model: LanguageModel) -> None:
    with pytest.raises(RequestRefused, match="the model holds 4096 in all"):
        ask(model, max_tokens=4096)


@pytest.mark.parametrize(
    "said",
    [
        "plain words, spaced   out\n",
        "naïve café",
        "日本語のテキスト",
        "👩‍👩‍👧‍👦 and 🏳️‍🌈!",
        "e\u0301 combining",
        "\u200b\ufeffodd",
        "नमस्ते दुनिया",
    ],
)
def test_pieces_joined_are_the_reply_decoded_at_once(model: LanguageModel, said: str) -> None:
    ids = model.tokenizer(said, add_special_tokens=False)["input_ids"]
    stream = TextStream(model.tokenizer, stop=())
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == model.tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_nothing_of_a_stop_string_is_given_early(model: LanguageModel) -> None:
    ids = model.tokenizer("one <en one <end> two", add_special_tokens=False)["input_ids"]
    stream, given = TextStream(model.tokenizer, stop=("<end>",)), [""]
    for token in ids:
        given.append(given[-1] + stream.push(token))
        if stream.stopped:
            break
    assert given[-1] == "one <en one "
    assert all(later.startswith(earlier) for earlier, later in pairwise(given))
