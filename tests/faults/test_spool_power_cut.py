"""The spool when the power is cut: nothing acknowledged is lost, nothing is answered twice."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.spool import Kept, Retention, Spool, State
from tests.spools import Clock, CutDisk, PowerCut, content, open_spool, send

NEVER = 1e12


class Box:
    """A spool whose power fails, the senders that hold its acknowledgements, and a worker."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.acknowledged = root, Clock(), set[bytes]()
        self.disk = CutDisk(None)
        self.spool: Spool | None = None

    def on(self, steps: int | None, after: bool, seed: int) -> bool:
        """Power on; False when it goes off before the spool is open."""
        self.disk = CutDisk(steps, after, seed)
        try:
            self.spool = open_spool(self.root, self.clock, disk=self.disk, attempts=10**6)
        except PowerCut:
            self.off()
        return self.spool is not None

    def off(self) -> None:
        if self.spool is not None:
            self.spool.close()
        self.spool = None
        self.disk.outage()

    def send(self, number: int, series: int, text: str) -> None:
        assert self.spool is not None
        data = content(f"1.{number}", f"2.{series}", text)
        if send(self.spool, f"1.{number}", data) is not Kept.APART:
            self.acknowledged.add(data)

    def work(self, until: str) -> bool:
        """Take up one unit of work and get as far as said."""
        assert self.spool is not None
        claim = self.spool.claim_series(quiet=10)
        if claim is None:
            return False
        found = claim.result or json.dumps([item.path.read_text() for item in claim.objects]).encode()
        if until == "claimed":
            return True
        self.spool.inferred(claim, found)
        if until == "inferred":
            return True
        self.spool.answered(claim, found)
        if until == "confirmed":
            self.spool.confirmed(claim.key)
        return True

    def do(self, action: tuple) -> None:
        assert self.spool is not None
        kind, *values = action
        if kind == "send":
            self.send(*values)
        elif kind == "work":
            self.work(*values)
        elif kind == "wait":
            self.clock.now += values[0]
        else:
            self.spool.purge(Retention(5, 20, NEVER, NEVER))


actions = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3), st.just(0), st.sampled_from(["a", "a", "b"])),
    st.tuples(st.just("send"), st.integers(4, 6), st.just(1), st.sampled_from(["a", "a", "b"])),
    st.tuples(st.just("work"), st.sampled_from(["claimed", "inferred", "answered", "confirmed"])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 11.0, 4000.0])),
    st.tuples(st.just("purge")),
)
power = st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(actions, min_size=3, max_size=25), st.lists(power, max_size=6))
def test_whenever_the_power_is_cut_what_was_acknowledged_is_answered_once(todo, cuts):
    with tempfile.TemporaryDirectory() as folder:
        box, left = Box(Path(folder) / "spool"), list(cuts)
        try:
            for action in todo:
                while box.spool is None:
                    box.on(*(left.pop() if left else (None, False, 0)))
                try:
                    box.do(action)
                except PowerCut:
                    box.off()
            if box.spool is not None:
                box.off()
            box.on(None, False, 0)
            check(box)
        finally:
            if box.spool is not None:
                box.spool.close()


def check(box: Box) -> None:
    """Let the worker end its work, then compare with what the senders were told."""
    spool = box.spool
    assert spool is not None
    box.clock.now += 400
    while box.work("answered"):
        pass
    answered = Counter(text for answer in spool.answers() for text in json.loads(answer.body))
    assert set(answered.values()) <= {1}
    uids = [text.split("|")[0] for text in answered]
    assert len(uids) == len(set(uids))  # of two objects with one UID, one
    apart = {item.path.read_text() for item in spool.objects(State.QUARANTINED)}
    for data in box.acknowledged:
        assert data.decode() in answered or data.decode() in apart
    states = spool.counts()
    assert not states[State.RECEIVED] + states[State.QUEUED] + states[State.INFERRED]
    on_disk = {path for path in (spool.root / "objects").rglob("*") if path.is_file()}
    assert on_disk <= {item.path for item in spool.objects()}  # no garbage


def test_the_test_can_fail_a_spool_that_acknowledges_before_it_syncs_loses_objects(tmp_path):
    class Hasty(CutDisk):
        def sync(self, fd: int, path: Path) -> None:
            pass

    disk = Hasty(None, seed=1)
    spool = open_spool(tmp_path / "spool", disk=disk)
    for number in range(5):
        send(spool, f"1.{number}")
    spool.close()
    disk.outage()
    with open_spool(tmp_path / "spool") as spool:
        assert spool.counts()[State.QUARANTINED] > 0
