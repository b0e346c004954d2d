"""The spool: objects in, units of work out, each answered once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge.errors import StoreError
from edge.spool import Disk, Kept, LeaseLost, Retention, Spool, SpoolFull, State, Watermarks
from tests.spools import Clock, content, open_spool, send

DAY = 86400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock):
    with open_spool(tmp_path / "spool", clock) as spool:
        yield spool


def files(spool: Spool) -> list[Path]:
    return [path for path in (spool.root / "objects").rglob("*") if path.is_file()]


def test_an_object_goes_all_the_way(spool, clock):
    assert send(spool, "1.1") is Kept.STORED
    assert spool.counts() == {State.RECEIVED: 1}
    clock.now += 30
    claim = spool.claim_series(quiet=30)
    assert spool.counts() == {State.QUEUED: 1}
    assert [item.uid for item in claim.objects] == ["1.1"]
    assert claim.objects[0].path.read_bytes() == content("1.1")
    spool.inferred(claim, b"result")
    assert spool.counts() == {State.INFERRED: 1}
    answer = spool.answered(claim, b"line")
    assert spool.counts() == {State.ANSWERED: 1}
    assert spool.confirmed(claim.key)
    assert spool.counts() == {State.CONFIRMED: 1}
    assert [(a.number, a.body, a.confirmed) for a in spool.answers()] == [(answer.number, b"line", True)]
    assert spool.answers(after=answer.number) == []


def test_names_hold_nothing_of_the_object_and_files_are_the_owners_alone(spool):
    send(spool, "1.2.276.5550123456789")
    (file,) = files(spool)
    assert "5550123456789" not in file.name and file.stat().st_mode & 0o077 == 0
    assert (spool.root / "spool.db").stat().st_mode & 0o077 == 0


def test_the_same_object_again_is_known_and_not_doubled(spool, clock):
    assert [send(spool, "1.1") for _ in range(3)] == [Kept.STORED, Kept.KNOWN, Kept.KNOWN]
    assert len(files(spool)) == 1
    claim = spool.claim_object()
    spool.answered(claim)
    assert send(spool, "1.1") is Kept.KNOWN  # also when it was answered
    assert spool.claim_object() is None


def test_another_object_with_the_same_uid_is_kept_apart(spool, caplog):
    send(spool, "1.1", content("1.1", text="first"))
    assert send(spool, "1.1", content("1.1", text="second")) is Kept.APART
    assert send(spool, "1.1", content("1.1", text="second")) is Kept.KNOWN
    (apart,) = spool.objects(State.QUARANTINED)
    assert b"second" in apart.path.read_bytes() and "other content" in apart.reason
    claim = spool.claim_object()
    assert [b"first" in item.path.read_bytes() for item in claim.objects] == [True]
    spool.answered(claim)
    assert spool.claim_object() is None
    assert "1.1" not in caplog.text and "quarantined" in caplog.text


def test_the_same_object_from_many_at_once_is_stored_once(spool):
    kept: list[Kept] = []
    threads = [threading.Thread(target=lambda: kept.append(send(spool, "1.1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept) == [Kept.KNOWN] * 7 + [Kept.STORED]
    assert len(files(spool)) == 1


def test_arrivals_that_wait_are_committed_together(tmp_path, clock):
    entered, go = threading.Event(), threading.Event()

    class Slow(Disk):
        commits = 0
        holding = False

        def commit(self, database):
            if self.holding:
                self.commits += 1
                entered.set()
                assert go.wait(10)
            super().commit(database)

    disk = Slow()
    with open_spool(tmp_path / "spool", clock, disk=disk) as spool:
        disk.holding = True
        first = threading.Thread(target=send, args=(spool, "1.0"))
        first.start()
        assert entered.wait(10)
        rest = [threading.Thread(target=send, args=(spool, f"1.{i}")) for i in range(1, 9)]
        for thread in rest:
            thread.start()
        while len(spool._ledger._waiting) < 8:
            threading.Event().wait(0.001)
        go.set()
        for thread in [first, *rest]:
            thread.join()
        assert disk.commits == 2
        assert spool.counts() == {State.RECEIVED: 9}


def test_a_series_waits_for_its_quiet_time_and_a_late_slice_is_an_update(spool, clock):
    send(spool, "1.1")
    clock.now += 20
    send(spool, "1.2")
    send(spool, "2.1", content("2.1", series="other"))
    clock.now += 20
    assert spool.claim_series(quiet=30) is None
    clock.now += 10
    first = spool.claim_series(quiet=30)
    assert [item.uid for item in first.objects] == ["1.1", "1.2"] and first.revision == 1
    assert [item.uid for item in spool.claim_series(quiet=30).objects] == ["2.1"]
    spool.answered(first)
    send(spool, "1.3")
    clock.now += 30
    update = spool.claim_series(quiet=30)
    assert [item.uid for item in update.objects] == ["1.3"] and update.revision == 2
    assert [item.uid for item in update.earlier] == ["1.1", "1.2"]


def test_a_clock_that_was_set_back_keeps_no_series_waiting(spool, clock):
    send(spool, "1.1")
    clock.now -= DAY
    assert spool.claim_series(quiet=30) is not None


def test_a_lease_returns_after_its_time_and_the_first_worker_cannot_answer(spool, clock):
    send(spool, "1.1")
    first = spool.claim_object()
    assert spool.claim_object() is None
    clock.now += 200
    spool.renew(first)
    clock.now += 200
    assert spool.claim_object() is None
    clock.now += 101
    second = spool.claim_object()
    assert second.key == first.key and second.token != first.token
    for late in (spool.renew, spool.release, spool.answered, lambda c: spool.inferred(c, b"")):
        with pytest.raises(LeaseLost):
            late(first)
    spool.answered(second)
    with pytest.raises(LeaseLost):
        spool.answered(second)
    assert len(spool.answers()) == 1


def test_what_was_inferred_is_not_inferred_again_after_a_restart(tmp_path, clock):
    with open_spool(tmp_path / "spool", clock) as spool:
        send(spool, "1.1")
        before = spool.claim_object()
        spool.inferred(before, b"result")
    with open_spool(tmp_path / "spool", clock) as spool:
        after = spool.claim_object()
        assert after.result == b"result" and after.key == before.key
        with pytest.raises(LeaseLost):
            spool.answered(before)


def test_a_unit_that_kills_its_workers_blocks_nothing_and_is_quarantined(spool, clock):
    """At its second death it may be chance; from then on all others come first."""
    send(spool, "1.1")
    send(spool, "1.2")

    def next_one() -> str:
        clock.now += 301
        return str(spool.claim_object().objects[0].uid)

    assert [next_one(), next_one()] == ["1.1", "1.1"]
    clock.now += 301
    other = spool.claim_object()
    assert other.objects[0].uid == "1.2"
    spool.answered(other)
    assert [next_one() for _ in range(8)] == ["1.1"] * 8
    clock.now += 301
    assert spool.claim_object() is None
    (bad,) = spool.objects(State.QUARANTINED)
    assert "10 attempts" in bad.reason
    assert spool.retry(bad.name) and not spool.retry(bad.name)
    assert spool.claim_object().objects[0].uid == "1.1"


def test_a_result_that_is_there_is_no_suspect_however_often_its_worker_is_killed(spool, clock):
    send(spool, "1.1")
    spool.inferred(spool.claim_object(), b"result")
    send(spool, "1.2")
    for _ in range(12):
        clock.now += 301
        claim = spool.claim_object()
        assert (claim.objects[0].uid, claim.result) == ("1.1", b"result")
    spool.answered(claim)


def test_a_unit_that_is_given_back_in_order_counts_for_no_attempt(spool):
    send(spool, "1.1")
    for _ in range(5):
        spool.release(spool.claim_object())
    assert spool.claim_object() is not None


@pytest.mark.parametrize(
    "data, reason",
    [
        (content("damaged"), "it is damaged"),
        (content("7.7"), "not the one it was sent under"),
        (content("1.1", series=""), "no Series Instance UID"),
    ],
)
def test_what_is_not_what_it_says_is_quarantined_with_the_reason(spool, data, reason):
    send(spool, "1.1", data)
    send(spool, "1.2")
    assert spool.claim_object().objects[0].uid == "1.2"
    (bad,) = spool.objects(State.QUARANTINED)
    assert reason in bad.reason
    assert send(spool, "1.1") is Kept.STORED  # a mended one is taken


def test_a_worker_can_quarantine(spool):
    send(spool, "1.1")
    claim = spool.claim_object()
    spool.quarantine(claim, "the model has no use for it")
    assert spool.objects(State.QUARANTINED)[0].reason == "the model has no use for it"
    with pytest.raises(LeaseLost):
        spool.answered(claim)
    assert spool.claim_object() is None


def test_one_object_of_a_unit_can_be_set_aside_and_the_others_are_answered(spool):
    for uid in ("1.1", "1.2"):
        send(spool, uid)
    claim = spool.claim_series(quiet=0)
    spool.set_aside(claim, claim.objects[0].name, "it is broken")
    spool.answered(claim)
    assert spool.counts() == {State.QUARANTINED: 1, State.ANSWERED: 1}
    assert spool.objects(State.QUARANTINED)[0].reason == "it is broken"
    with pytest.raises(LeaseLost):
        spool.set_aside(claim, claim.objects[1].name, "too late")


def test_a_unit_that_failed_and_is_given_back_counts_its_attempts(spool):
    send(spool, "1.1")
    attempts = []
    while (claim := spool.claim_object()) is not None:
        attempts.append(claim.attempt)
        spool.release(claim, failed=True)
    assert attempts == list(range(1, 11))
    assert spool.counts() == {State.QUARANTINED: 1}


class Filling(Disk):
    space = 1000

    def free(self, path: Path) -> int:
        return self.space


def test_objects_are_refused_before_the_disk_is_full_and_taken_again_later(tmp_path, clock):
    disk = Filling()
    with open_spool(tmp_path / "spool", clock, disk=disk, marks=Watermarks(100, 200)) as spool:
        assert send(spool, "1.1") is Kept.STORED
        disk.space = 99
        with pytest.raises(SpoolFull):
            send(spool, "1.2")
        disk.space = 199  # not yet: it would flutter
        with pytest.raises(SpoolFull):
            send(spool, "1.2")
        disk.space = 200
        assert send(spool, "1.2") is Kept.STORED
        assert len(files(spool)) == 2


def test_an_object_that_fills_the_disk_while_it_arrives_is_refused_and_leaves_nothing(tmp_path, clock):
    disk = Filling()
    with open_spool(tmp_path / "spool", clock, disk=disk, marks=Watermarks(100, 200)) as spool:
        arrival = spool.arrival("1.1", "", "")
        arrival.write(bytes(5 << 20))
        disk.space = 0
        with pytest.raises(SpoolFull):
            arrival.write(bytes(5 << 20))
        arrival.discard()
        assert files(spool) == []


def test_an_object_over_the_limit_is_refused(tmp_path, clock):
    with open_spool(tmp_path / "spool", clock, max_bytes=10) as spool, pytest.raises(SpoolFull):
        send(spool, "1.1", bytes(11))


@pytest.mark.parametrize("step", ["sync", "sync_folder", "commit", "write"])
def test_a_disk_error_is_no_success_and_leaves_nothing(tmp_path, clock, step):
    class Broken(Disk):
        pass

    disk = Broken()
    with open_spool(tmp_path / "spool", clock, disk=disk) as spool:
        send(spool, "1.1")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        setattr(disk, step, fail)
        with pytest.raises(OSError):
            send(spool, "1.2")
        delattr(disk, step)
        assert len(files(spool)) == 1
        assert send(spool, "1.2") is Kept.STORED
        assert spool.counts() == {State.RECEIVED: 2}


def test_a_start_removes_what_nobody_acknowledged_and_tells_what_is_gone(tmp_path, clock):
    with open_spool(tmp_path / "spool", clock) as spool:
        for uid in ("1.1", "1.2", "1.3"):
            send(spool, uid)
        first, second, _ = spool.objects()
    first.path.unlink()
    second.path.write_bytes(b"short")
    orphan = first.path.with_name("orphan.dcm")
    orphan.write_bytes(b"half")
    with open_spool(tmp_path / "spool", clock) as spool:
        assert not orphan.exists()
        assert [item.uid for item in spool.objects(State.QUARANTINED)] == ["1.1", "1.2"]
        assert spool.claim_object().objects[0].uid == "1.3"
        assert send(spool, "1.1") is Kept.STORED  # the sender still has it
        assert spool.claim_object().objects[0].uid == "1.1"


def test_two_processes_cannot_use_one_spool(spool, clock):
    with pytest.raises(StoreError, match="another process"):
        open_spool(spool.root, clock)


def test_a_damaged_ledger_is_a_plain_error(tmp_path, clock):
    (tmp_path / "spool.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"spool\.db"):
        open_spool(tmp_path, clock)
    (tmp_path / "spool.db").unlink()
    open_spool(tmp_path, clock).close()  # the lock was given back


def test_commits_outlive_a_power_cut(spool):
    assert [row[0] for row in spool._ledger.rows("PRAGMA synchronous")] == [2]  # FULL
    assert [row[0] for row in spool._ledger.rows("PRAGMA journal_mode")] == ["wal"]


def test_a_purge_removes_what_is_done_and_old_and_remembers_it(spool, clock):
    for uid in ("1.1", "1.2", "1.3"):
        send(spool, uid)
    confirmed, answered = spool.claim_object(), spool.claim_object()
    spool.answered(confirmed)
    spool.confirmed(confirmed.key)
    spool.answered(answered)
    clock.now += 2 * DAY
    assert spool.purge(Retention()) == 1
    clock.now += 6 * DAY
    assert spool.purge(Retention()) == 1
    assert send(spool, "1.1") is Kept.KNOWN
    (left,) = files(spool)
    assert left == spool.claim_object().objects[0].path  # nobody answered it: it stays
    clock.now += 400 * DAY
    spool.purge(Retention())
    assert left.exists() and len(spool.objects()) == 1 and spool.answers() == []
    assert send(spool, "1.1") is Kept.STORED


def test_a_purge_that_died_before_it_removed_its_files_is_ended_by_the_next_start(tmp_path, clock):
    class Dying(Disk):
        def remove(self, path: Path) -> None:
            raise KeyboardInterrupt

    spool = open_spool(tmp_path / "spool", clock)
    send(spool, "1.1")
    spool.answered(spool.claim_object())
    clock.now += 8 * DAY
    spool._disk = Dying()
    with pytest.raises(KeyboardInterrupt):
        spool.purge(Retention())
    spool.close()
    with open_spool(tmp_path / "spool", clock) as spool:
        assert files(spool) == [] and send(spool, "1.1") is Kept.KNOWN
