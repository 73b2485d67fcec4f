"""What is found for a question, what the messages become, and that no test row can be among them."""

import json

import pytest

from forgeline.config import load
from forgeline.config.schema import Prompt
from forgeline.errors import ConfigError, DataError, ModelError
from forgeline.prompting import Approach, Example, Prompter, Store, knowledge
from forgeline.prompting.store import fused
from forgeline.records import write_jsonl

EXAMPLES = [
    Example("1", "a", "act: Train-Inform\nleave: 05:00", "It leaves at 05:00."),
    Example("2", "b", "act: Hotel-Inform\nstars: 4", "It has 4 stars."),
    Example("3", "c", "act: general-bye", "Goodbye!"),
]
FACTS = [
    "restaurant; name: curry garden; food: indian; area: centre",
    "hotel; name: avalon; stars: 4; area: north",
    "attraction; name: castle galleries; type: museum; area: centre",
]
GROUNDED = Prompt(system="{{system}}\nFacts:\n{{facts}}", user="Question: {{question}}")


def approach(**values):
    plain = {"name": "x", "model": "base", "prompt": Prompt(), "prompt_version": "prompts:/x/1", "retriever": "bm25"}
    return Approach.model_validate({**plain, "examples": 0, "facts": 0, "max_prompt_tokens": None, **values})


def words(messages):
    return sum(len(message["content"].split()) for message in messages)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(Store.build(tmp_path_factory.mktemp("store") / "store.db", EXAMPLES, FACTS, embedded=True))


def test_words_find_what_shares_the_rare_ones(store):
    assert store.facts("act: Restaurant-Inform\nname: curry garden", 1, "bm25") == FACTS[:1]
    assert store.examples("leave: 05:00", 3, "bm25") == EXAMPLES[:1]
    assert store.facts('"?!* NEAR(', 3, "bm25") == []


def test_embeddings_find_what_shares_no_word(store):
    question = "somewhere to see paintings and sculpture"
    assert store.facts(question, 1, "embeddings") == [FACTS[2]]
    assert store.facts(question, 1, "bm25") == []
    assert store.facts(question, 1, "hybrid") == [FACTS[2]]
    assert [example.id for example in store.examples("farewell", 1, "embeddings")] == ["3"]


def test_two_rankings_are_fused_by_reciprocal_rank():
    assert fused([[1, 2, 3], [3, 4]]) == [3, 1, 2, 4]
    assert fused([[2], [1]]) == [1, 2]


def test_a_store_is_not_searched_by_another_encoders_embeddings(tmp_path, monkeypatch):
    path = Store.build(tmp_path / "store.db", [], FACTS, embedded=True)
    monkeypatch.setattr("forgeline.prompting.store.ENCODER", "another")
    with pytest.raises(ModelError, match="compare the approaches again"):
        Store(path)


def test_the_plain_prompt_changes_nothing():
    messages = [
        {"role": "system", "content": "Be brief {{facts}}."},
        {"role": "user", "content": "Hello {{question}}"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "act: general-bye"},
    ]
    assert Prompter(approach(), None).rewrite(messages, words).messages == messages


def test_examples_are_turns_and_the_best_stands_last(store):
    found = Prompter(approach(examples=2, prompt=Prompt(user="Say: {{question}}")), store).rewrite(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "act: Train-Inform\nleave: 09:00"}],
        words,
    )
    assert [(turn["role"], turn["content"]) for turn in found.messages] == [
        ("system", "Be brief."),
        ("user", "Say: act: Hotel-Inform\nstars: 4"),
        ("assistant", "It has 4 stars."),
        ("user", "Say: act: Train-Inform\nleave: 05:00"),
        ("assistant", "It leaves at 05:00."),
        ("user", "Say: act: Train-Inform\nleave: 09:00"),
    ]


def test_facts_stand_in_the_system_turn_and_the_callers_braces_stay(store):
    prompter = Prompter(approach(facts=1, prompt=GROUNDED), store)
    found = prompter.rewrite([{"role": "user", "content": "curry {{facts}}"}], words)
    assert found.messages == [
        {"role": "system", "content": f"Facts:\n- {FACTS[0]}"},
        {"role": "user", "content": "Question: curry {{facts}}"},
    ]
    assert found.facts == (FACTS[0],)


def test_over_the_budget_the_worst_examples_go_before_the_facts(store):
    question = [{"role": "user", "content": "act: Hotel-Inform\nstars: 4 north train leave"}]

    def left(budget):
        follows = approach(examples=2, facts=1, prompt=GROUNDED, max_prompt_tokens=budget)
        found = Prompter(follows, store).rewrite(question, words).messages
        return [turn["content"] for turn in found if turn["role"] == "assistant"], "avalon" in found[0]["content"]

    assert left(None) == (["It leaves at 05:00.", "It has 4 stars."], True)
    assert left(30) == (["It has 4 stars."], True)
    assert left(22) == ([], True)
    assert left(1) == ([], False)  # the caller's words are never cut


def test_what_was_saved_says_the_same(store, tmp_path):
    prompter = Prompter(approach(examples=1), store)
    again = Prompter.read(prompter.save(tmp_path))
    question = [{"role": "user", "content": "stars"}]
    assert again.rewrite(question, words) == prompter.rewrite(question, words)
    assert again.digest() == prompter.digest()


def row(number, key, reply, **values):
    turns = [{"role": "user", "content": f"question {key}"}, {"role": "assistant", "content": reply}]
    return {"id": str(number), "key": key, "messages": turns, **values}


def test_examples_are_the_most_typical_answers_that_nobody_disliked(tmp_path):
    rows = [row(1, "a", "a b c"), row(2, "a", "a b d"), row(3, "a", "x"), row(4, "b", "no", label=False)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [row(9, "t", "yes")])
    [found] = knowledge.examples(tmp_path / "train.jsonl", [tmp_path / "test.jsonl"], seed=1)
    assert found.key == "a" and found.answer in {"a b c", "a b d"}


def test_no_test_key_is_ever_among_the_examples(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [row(1, "a", "yes"), row(2, "t", "leak")])
    write_jsonl(tmp_path / "test.jsonl", [row(9, "t", "yes")])
    with pytest.raises(DataError, match="share the key t"):
        knowledge.examples(tmp_path / "train.jsonl", [tmp_path / "test.jsonl"], seed=1)


def told(config, source, fields):
    known = type(config.approaches).model_validate(
        {**config.approaches.model_dump(), "knowledge": {"shop": {"uri": str(source), "fields": fields}}}
    )
    return knowledge.facts(config.model_copy(update={"approaches": known}))


def test_facts_come_from_tables_masked_as_the_data_are(config, tmp_path):
    (tmp_path / "a.csv").write_text("name,phone,open\nCorner shop,01223 902088,?\n")
    (tmp_path / "a.json").write_text(json.dumps([{"name": "Corner shop", "phone": "01223 902088", "at": [1, 2]}]))
    write_jsonl(tmp_path / "a.jsonl", [{"text": "Refunds take 5 days."}, {"text": "Refunds take 5 days."}])
    fields = {"name": "called", "phone": "phone", "open": "open"}
    assert told(config, tmp_path / "a.csv", fields) == ["shop; called: Corner shop; phone: [PHONE]"]
    assert told(config, tmp_path / "a.json", fields) == told(config, tmp_path / "a.csv", fields)
    assert told(config, tmp_path / "a.jsonl", {"text": None}) == ["shop; Refunds take 5 days."]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "title,price\nx,1\n", "none of the fields name; it has price, title"),
        ("a.json", '{"name": "x"}', "no table of facts"),
        ("a.json", "{", "is not JSON"),
        ("a.txt", "x", "no table of facts"),
    ],
)
def test_a_file_without_facts_is_told(config, tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        told(config, tmp_path / name, {"name": "name"})


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("approaches.recommend.metric=blue", "nothing measures blue.*did you mean bleu"),
        ("approaches.candidates.lora.facts=2", r"candidates.lora has facts: 2; prompts.plain has no {{facts}}"),
        ("approaches.candidates.lora.prompt=grounded", r"prompts.grounded has {{facts}}"),
        ("approaches.candidates.lora.prompt=plan", "candidates.lora.prompt is plan; legal: plain, grounded"),
        ("approaches.candidates.lora.model=best", "input should be 'base' or 'tuned'"),
        ("approaches.prompts.plain.user=Hi", "user must have {{question}}"),
        ("approaches.prompts.plain.system={{who}}", "system has who in braces"),
    ],
)
def test_an_approach_that_cannot_be_is_told(override, says):
    with pytest.raises(ConfigError, match=says):
        load(overrides=[override])
