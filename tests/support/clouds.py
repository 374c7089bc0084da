"""Services of clouds, as tables: what a source of logins asks, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from asyncbuild.registry.cloud import Question, Reply
from asyncbuild.registry.wire import NoAnswer

NOW = 1_700_000_000.0


@dataclass(slots=True)
class Services:
    """Answers by ``METHOD URL``: an object is JSON of 200, a number a status; everything else is silent."""

    answers: Mapping[str, Any]
    asked: list[Question] = field(default_factory=list)

    async def __call__(self, question: Question) -> Reply:
        """Answer one question."""
        await trio.lowlevel.checkpoint()
        self.asked.append(question)
        answer = self.answers.get(f"{question.method} {question.url}")
        if answer is None:
            raise NoAnswer("nobody answers")
        if isinstance(answer, int):
            return Reply(answer, b'{"message": "their words"}')
        return Reply(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    @property
    def urls(self) -> list[str]:
        """The URLs that were asked."""
        return [question.url for question in self.asked]
