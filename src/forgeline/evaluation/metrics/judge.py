"""A grade by a language model, through any URL that speaks the OpenAI chat API."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field, validate_call

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import REPLIES, Mean, Table, with_ones

GRADE = re.compile(r"\s*([1-5])\s*")
TIMEOUT = 60.0  # seconds for one grade
AT_ONCE = 8  # questions that a judge is asked together
QUESTION = """\
You grade replies. The rubric:
{rubric}

[What was asked]
{prompt}

[Replies that people accepted]
{references}

[The reply to grade]
{reply}

Answer with one digit from 1 (worst) to 5 (best) and nothing else."""


class Judge(Mean):
    """The mean grade, 1 to 5, that the judge `model` at `url` gives by `rubric`, with references (source, 3.4).

    `key` is the name of the environment variable that holds the API key. Nothing is graded unless every
    reply is. A judge has habits of its own (source, 3.3): compare grades of one judge only. Statistics: grade, 1.
    """

    columns = (*REPLIES, "prompts")
    source = "Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, 2023"

    @validate_call
    def __init__(
        self,
        url: Annotated[str, Field(pattern=r"^https?://")],
        model: Annotated[str, Field(min_length=1)],
        rubric: Annotated[str, Field(min_length=1)],
        key: str | None = None,
    ) -> None:
        super().__init__()
        self.url, self.model, self.rubric, self.key = url, model, rubric, key

    def statistics(self, predictions: list[str], references: list[list[str]], prompts: list[str]) -> Table:
        """Return (grade, 1) for each reply.

        Raises:
            EvaluationError: if the key is not set, the judge cannot be asked, or an answer is no grade.
        """
        questions = [
            QUESTION.format(rubric=self.rubric, prompt=prompt, references="\n".join(accepted), reply=reply)
            for prompt, accepted, reply in zip(prompts, references, predictions, strict=True)
        ]
        answers = self._ask(questions)
        grades = [GRADE.fullmatch(answer) for answer in answers]
        wrong = [answer for answer, grade in zip(answers, grades, strict=True) if grade is None]
        if wrong:
            raise EvaluationError(
                f"The judge {self.model} gave no digit from 1 to 5 for {len(wrong)} of {len(answers)} replies, first "
                f"{wrong[0][:80]!r}: choose a judge that follows its instruction."
            )
        return with_ones(float(grade[1]) for grade in grades if grade)

    def _ask(self, questions: list[str]) -> list[str]:
        from openai import OpenAI, OpenAIError

        if self.key is not None and not os.environ.get(self.key):
            raise EvaluationError(f"The judge's key is read from {self.key}, which is not set: export it first.")
        secret = os.environ[self.key] if self.key else "none"
        client = OpenAI(base_url=self.url, api_key=secret, timeout=TIMEOUT)

        def ask(question: str) -> str:
            answer = client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=8
            )
            return answer.choices[0].message.content or ""

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                return list(pool.map(ask, questions))
            except OpenAIError as error:
                pool.shutdown(cancel_futures=True)
                raise EvaluationError(f"The judge at {self.url} did not grade every reply ({error}).") from error
