from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from forgeline.errors import ModelError
from forgeline.models import Example, encode_example, encode_prompt, generate, load_base, load_tuned
from forgeline.models.score import batch_loss, completion_losses, token_losses, total_weight
from forgeline.records import Record

SYSTEM = {"role": "system", "content": "You write what a customer-service agent says, in one or two sentences."}


def record(question: str, answer: str) -> Record:
    messages = [SYSTEM, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record(id=question, key=question, messages=messages)


RECORDS = [
    record("act: Train-Inform\nleave: 05:00", "It leaves at 05:00."),
    record(
        "act: Hotel-Inform\narea: east\nstars: 4\nname: the lensfield", "The Lensfield is a 4 star hotel in the east."
    ),
    record("act: general-bye", "Goodbye!"),
]


@pytest.fixture(scope="module")
def examples(base):
    return [encode_example(base.tokenizer, each) for each in RECORDS]


def test_the_completion_follows_the_prompt_and_ends_with_a_stop_token(base, examples):
    for each, example in zip(RECORDS, examples, strict=True):
        assert example.prompt == encode_prompt(base.tokenizer, each.prompt)
        assert example.completion[-1] == base.tokenizer.eos_token_id
        assert base.tokenizer.decode(example.completion[:-1]) == each.completion


def test_losses_are_those_of_the_whole_sequence_without_any_shortcut(base, examples):
    for example in examples:
        ids = torch.tensor([example.prompt + example.completion])
        with torch.no_grad():
            logits = base.model(ids).logits[0, len(example.prompt) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(example.completion), reduction="none")
        torch.testing.assert_close(token_losses(base.model, [example]), expected, rtol=1e-4, atol=1e-4)


def test_a_batch_that_shares_its_prefix_loses_what_its_examples_lose_alone(base, examples):
    together = completion_losses(base.model, examples)
    alone = [completion_losses(base.model, [example])[0] for example in examples]
    assert [tokens for _, tokens in together] == [len(example.completion) for example in examples]
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], rel=1e-4)


@contextmanager
def learning(model, *weights):
    """Only these weights take a gradient: that of the whole model would take a minute."""
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is weight for weight in weights))
    yield
    model.zero_grad()
    model.requires_grad_(True)


def test_packed_rows_have_the_gradient_of_rows_alone(base, examples):
    weights = [base.model.model.layers[27].self_attn.k_proj.weight, base.model.lm_head.weight]  # the head is tied
    gradients = []
    with learning(base.model, *weights):
        for batches in ([examples], [[example] for example in examples]):
            base.model.zero_grad()
            for batch in batches:
                batch_loss(base.model, batch, total_weight(examples)).backward()
            gradients.append([weight.grad.clone() for weight in weights])
    for packed, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, alone, rtol=1e-3, atol=1e-5)


def test_the_loss_is_that_of_plain_autograd(base, examples):
    weight = base.model.model.layers[28].mlp.up_proj.weight
    with learning(base.model, weight):
        batch_loss(base.model, examples, total_weight(examples)).backward()
        gradient = weight.grad.clone()
        base.model.zero_grad()
        for example in examples:
            ids = torch.tensor([example.prompt + example.completion])
            logits = base.model(ids).logits[0, len(example.prompt) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(example.completion), reduction="sum")
            (loss / total_weight(examples)).backward()
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-5)


def test_a_head_whose_scores_are_changed_afterwards_is_told_and_followed(base, examples):
    class Capped(type(base.model)):
        def forward(self, *arguments, **options):
            output = super().forward(*arguments, **options)
            return replace(output, logits=3 * torch.tanh(output.logits / 3))

    capped = Capped.__new__(Capped)
    capped.__dict__ = base.model.__dict__
    [example] = examples[:1]
    with torch.no_grad():
        logits = capped(torch.tensor([example.prompt + example.completion])).logits[0, len(example.prompt) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(example.completion), reduction="none")
    torch.testing.assert_close(token_losses(capped, [example]), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, token_losses(base.model, [example]))


def test_long_rows_attend_as_short_ones_do(base, examples, monkeypatch):
    plain = token_losses(base.model, examples)
    monkeypatch.setattr("forgeline.models.branches.SHORT", 0)  # the kernel for long rows and for GPUs
    torch.testing.assert_close(token_losses(base.model, examples), plain, rtol=1e-4, atol=1e-4)


def test_batched_generation_is_generation_one_by_one(base, examples):
    prompts = [example.prompt for example in examples]
    together = generate(base, prompts, max_new_tokens=8, batch_size=3)
    assert together == generate(base, prompts, max_new_tokens=8, batch_size=1)
    assert all(reply.tokens <= 8 for reply in together)


def test_a_model_that_cannot_be_loaded_says_why(config, tmp_path):
    train = config.train
    with pytest.raises(ModelError, match=r"neither an adapter \(adapter_config.json\) nor a model \(config.json\)"):
        load_tuned(train, tmp_path, config.root)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ModelError, match=r"expected a folder with config.json, or one .gguf file"):
        load_base(
            train.model_copy(update={"model": train.model.model_copy(update={"source": str(tmp_path / "notes.txt")})}),
            config.root,
        )


def test_an_example_is_as_long_as_its_tokens():
    assert len(Example([1, 2, 3], [4, 5])) == 5


def test_an_example_of_weight_two_counts_like_two(base, examples):
    def loss(batch):
        with torch.no_grad():
            return batch_loss(base.model, batch, total_weight(batch))

    weighted = loss([replace(examples[0], weight=2.0), *examples[1:]])
    torch.testing.assert_close(weighted, loss([examples[0], *examples]), rtol=1e-4, atol=1e-5)
    assert abs(weighted - loss(examples)) > 1e-3
