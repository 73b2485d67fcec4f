import pytest
import torch

from forgeline.errors import ModelError
from forgeline.evaluation.subjects import Local
from forgeline.models import Example, load_base
from forgeline.models.score import completion_losses, sliding_windows, text_losses
from forgeline.records import Record

TEXTS = [
    " ".join(
        f"Train TR{number:04d} leaves the city at {number % 24:02d}:00 and costs {number} pounds."
        for number in range(40)
    ),
    "Goodbye!",
    "",
    "The gonville hotel is in the centre; it has 3 stars and free parking. " * 6,
]


@pytest.fixture(scope="module")
def language_model(tiny, request):
    return load_base(tiny.train, tiny.root)


def documented(model, ids, window, stride):
    """Return nats and tokens as transformers' documentation computes the perplexity of fixed-length models."""
    nats, tokens, before = 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + window, ids.size(1))
        part = ids[:, begin:end]
        targets = part.clone()
        targets[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model(part, labels=targets).loss
        scored = int((targets != -100).sum()) - targets.size(0)
        nats, tokens, before = nats + loss.item() * scored, tokens + scored, end
        if end == ids.size(1):
            break
    return nats, tokens


def test_a_sliding_window_gives_the_documented_perplexity(language_model):
    tokenizer = language_model.tokenizer
    found = text_losses(language_model, TEXTS, window=256, stride=128)
    ids = [tokenizer.bos_token_id, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]
    assert len(ids) > 900 and found[0][1] == len(ids) - 1
    nats, tokens = documented(language_model.model, torch.tensor([ids]), window=256, stride=128)
    # It weighs all windows after the first as if they scored one token less.
    assert found[0][0] / found[0][1] == pytest.approx(nats / tokens, rel=1e-3)
    assert found[2] == (0, 0)


def test_every_token_is_scored_once_with_the_context_of_its_window(language_model):
    [example] = [Example(list(range(10)), list(range(10, 47)))]
    parts = sliding_windows(example, window=16, stride=6)
    assert [token for part in parts for token in part.completion] == example.completion
    assert all(len(part) <= 16 and len(part.prompt) >= 10 for part in parts)
    assert sliding_windows(example, window=47, stride=6) == [example]
    late = sliding_windows(Example(list(range(40)), [40, 41]), window=16, stride=8)  # its prompt is cut
    assert [part.completion for part in late] == [[40, 41]] and len(late[0].prompt) >= 8
    alone = sum(completion_losses(language_model.model, [part])[0][0] for part in parts)
    together = sum(nats for nats, _ in completion_losses(language_model.model, parts))
    assert together == pytest.approx(alone, rel=1e-5)
    with pytest.raises(ModelError, match="A window of 16 tokens cannot move on by 16"):
        sliding_windows(example, window=16, stride=16)


def test_long_and_plain_records_are_scored_whole(language_model, monkeypatch):
    def record(reply, *questions):
        messages = [*({"role": "user", "content": text} for text in questions), {"role": "assistant", "content": reply}]
        return Record(id="r", key="k", messages=messages)

    records = [record(TEXTS[0], "Hello?"), record(TEXTS[3]), record(TEXTS[1], "Bye")]
    whole = Local("tiny", language_model).losses(records)
    assert whole[1] == pytest.approx(text_losses(language_model, [TEXTS[3]], 2048, 1024)[0])
    monkeypatch.setattr(language_model.model.config, "max_position_embeddings", 512)
    short = Local("tiny", language_model).losses(records)
    assert [tokens for _, tokens in short] == [tokens for _, tokens in whole]
    assert short[1:] == [pytest.approx(each) for each in whole[1:]]
    assert short[0][0] == pytest.approx(whole[0][0], rel=0.05) and short[0][0] != whole[0][0]
