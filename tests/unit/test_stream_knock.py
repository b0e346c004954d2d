"""A host that was silent is noticed when it answers again."""

from __future__ import annotations

import threading

import pytest

from edge.stream import knock


class Host(threading.Event):
    """Comes back during the first pause that somebody waits; the event is the one that ends a run."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses += 1
        return False

    def answers(self, place: tuple[str, int]) -> bool:
        return self.pauses >= 1


def test_a_host_that_is_back_after_the_first_pause_is_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    monkeypatch.setattr(knock, "answers", host.answers)
    knock.wait(60, ("camera", 554), host, lambda: host.pauses > 3)
    assert host.pauses == 1


def test_a_host_that_answered_all_along_gets_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    monkeypatch.setattr(knock, "answers", lambda place: True)
    knock.wait(60, ("camera", 554), host, lambda: host.pauses > 3)
    assert host.pauses > 3
