"""The outbox: every answer reaches every archive, in simulated time and whatever the archives do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
import pydicom

from edge.dicom.delivery.carrier import Fate, Outcome, Parcel, Report, Unreachable
from edge.dicom.delivery.destination import Destination, destination
from edge.dicom.delivery.outbox import Outbox
from edge.dicom.delivery.records import State
from edge.errors import StoreError, UsageError
from edge.spool import Disk
from tests.pacs import ct_slice
from tests.spools import Clock, CutDisk, PowerCut

PACS = "dicom+scu://PACS@10.0.0.5:104?kinds=sr,seg&fallback=sc"
STORED = Outcome(Fate.STORED)


class Archive:
    """An archive that does what a test says, and remembers what it was sent."""

    def __init__(self) -> None:
        self.down = False
        self.calls = 0
        self.got: list[str] = []
        self.does: dict[str, Outcome | None] = {}
        self.asked: list[tuple[str, list[str]]] = []

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Outcome]]:
        self.calls += 1
        if self.down:
            raise Unreachable("no association", "connection refused")
        for parcel in parcels:
            outcome = self.does.get(parcel.uid, STORED)
            if outcome is None:
                yield parcel, Outcome(Fate.LATER, "the association ended")
                raise Unreachable("no association", "it ended")
            assert pydicom.dcmread(parcel.path).SOPInstanceUID == parcel.uid
            self.got += [parcel.uid] if outcome.fate is Fate.STORED else []
            yield parcel, outcome

    def commit(
        self,
        transaction: str,
        parcels: Sequence[Parcel],
        reported: Callable[[Report], bool],
        settled: Callable[[], bool],
    ) -> None:
        if self.down:
            raise Unreachable("no association", "connection refused")
        self.asked.append((transaction, [parcel.uid for parcel in parcels]))

    def echo(self) -> str:
        return ""

    def close(self) -> None:
        pass


class Office:
    """An outbox without threads, its archives and its clock."""

    def __init__(self, folder: Path, *addresses: str, disk: Disk | None = None) -> None:
        self.folder, self.clock, self.disk = folder, Clock(), disk or Disk()
        self.to = [destination(address) for address in addresses or (PACS,)]
        self.archives = {to.name: Archive() for to in self.to}
        self.told: list[tuple[str, ...]] = []
        self.box = self.open()

    @property
    def archive(self) -> Archive:
        return next(iter(self.archives.values()))

    def open(self) -> Outbox:
        def way(to: Destination) -> Archive:
            return self.archives[to.name]

        return Outbox(
            self.folder,
            self.to,
            clock=self.clock,
            on_delivered=lambda key: self.told.append(("delivered", key)),
            on_confirmed=lambda key: self.told.append(("confirmed", key)),
            on_given_up=lambda key, why: self.told.append(("given up", key, why)),
            start=False,
            way=way,
            disk=self.disk,
            chance=random.Random(1),
        )

    def reopen(self) -> None:
        self.box.close()
        self.box = self.open()

    def run(self, seconds: float, every: float = 1.0) -> None:
        """Let simulated time pass."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.box.step()
            self.clock.now += every

    def states(self) -> dict[str, str]:
        return {delivery.uid: delivery.state.value for delivery in self.box.deliveries()}


@pytest.fixture
def office(tmp_path, no_sync):
    made = []

    def make(*addresses: str) -> Office:
        made.append(Office(tmp_path / "outbox", *addresses))
        return made[-1]

    yield make
    for one in made:
        one.box.close()


def test_what_is_put_is_delivered_and_told(office):
    here = office()
    here.box.put("k", {"sr": [ct_slice(1)], "seg": [ct_slice(2)], "sc": [ct_slice(3)], "ko": [ct_slice(4)]})
    here.box.step()
    assert here.archive.got == ["1.2.3.1", "1.2.3.2"]
    assert here.told == [("delivered", "k")]
    assert here.states() == {"1.2.3.1": "sent", "1.2.3.2": "sent", "1.2.3.3": "spare"}
    here.run(1000)
    assert here.told == [("delivered", "k")] and here.archive.calls == 1


def test_the_same_answer_twice_is_sent_once(office):
    here = office()
    for _ in range(2):
        here.box.put("k", {"sr": [ct_slice(1)]})
        here.box.step()
    here.reopen()
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.box.step()
    assert here.archive.got == ["1.2.3.1"] and here.told == [("delivered", "k")]


def test_an_answer_that_no_archive_wants_is_delivered(office):
    here = office()
    here.box.put("k", {"ko": [ct_slice(1)]})
    here.box.step()
    assert here.told == [("delivered", "k")] and not here.archive.calls


def test_an_archive_that_is_down_for_an_hour_gets_everything_once_and_is_not_pestered(office):
    here = office()
    here.archive.down = True
    for number in range(100):
        here.box.put(f"k{number}", {"sr": [ct_slice(number)]})
        here.run(36)
    assert 10 < here.archive.calls < 40  # waits double up to five minutes
    assert not here.told
    here.reopen()
    here.run(10)
    here.archive.down = False
    here.run(310)
    assert here.archive.got == [f"1.2.3.{number}" for number in range(100)]
    assert len(here.told) == 100


def test_a_dead_archive_delays_no_other(office):
    here = office(PACS, "dicom+scu://OTHER@10.0.0.6:104?kinds=sr")
    dead, well = here.archives.values()
    dead.down = True
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.box.step()
    assert well.got == ["1.2.3.1"] and not here.told
    dead.down = False
    here.run(10)
    assert dead.got == ["1.2.3.1"] and here.told == [("delivered", "k")]


def test_an_object_that_ends_every_association_does_not_block_the_others(office):
    here = office()
    here.archive.does["1.2.3.1"] = None
    here.box.put("bad", {"sr": [ct_slice(1)]})
    here.box.put("good", {"sr": [ct_slice(2), ct_slice(3)]})
    here.run(20)
    assert here.archive.got == ["1.2.3.2", "1.2.3.3"] and here.told == [("delivered", "good")]


def test_a_refused_kind_is_replaced_by_its_fallback(office):
    here = office()
    here.archive.does["1.2.3.2"] = Outcome(Fate.REFUSED, "it does not take Segmentation Storage")
    here.box.put("k", {"sr": [ct_slice(1)], "seg": [ct_slice(2)], "sc": [ct_slice(3)]})
    here.box.step()
    assert here.archive.got == ["1.2.3.1", "1.2.3.3"] and here.told == [("delivered", "k")]
    [replaced] = here.box.deliveries(State.REPLACED)
    assert replaced.reason == "it does not take Segmentation Storage; SC instead"


def test_without_a_fallback_a_refusal_is_told_and_can_be_tried_again(office):
    here = office("dicom+scu://PACS@10.0.0.5:104?kinds=sr,seg")
    here.archive.does["1.2.3.2"] = Outcome(Fate.REFUSED, "it does not take it")
    here.box.put("k", {"sr": [ct_slice(1)], "seg": [ct_slice(2)]})
    here.run(5)
    assert here.archive.got == ["1.2.3.1"]
    assert here.told == [("given up", "k", "PACS@10.0.0.5:104: it does not take it")]
    here.archive.does.clear()
    assert here.box.retry() == 1
    here.run(5)
    assert here.archive.got == ["1.2.3.1", "1.2.3.2"] and here.told[1:] == [("delivered", "k")]


def test_attempts_end_where_a_limit_is_set(office):
    here = office("dicom+scu://PACS@10.0.0.5:104?kinds=sr&attempts=3")
    here.archive.down = True
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.run(60)
    assert here.archive.calls == 3 and here.told[0][0] == "given up"
    assert "connection refused" in here.told[0][2]


def test_a_full_archive_gets_it_later(office):
    here = office()
    here.archive.does["1.2.3.1"] = Outcome(Fate.LATER, "it is out of resources (0xA700)")
    here.box.put("k", {"sr": [ct_slice(1), ct_slice(2)]})
    here.run(100)
    assert here.archive.got == ["1.2.3.2"] and here.box.deliveries(State.WAITING)[0].attempts > 3
    here.archive.does.clear()
    here.run(300)
    assert here.archive.got == ["1.2.3.2", "1.2.3.1"]


COMMITS = "dicom+scu://PACS@10.0.0.5:104?kinds=sr,seg&commitment=yes&report_wait=100"


def test_it_is_confirmed_when_the_archive_commits(office):
    here = office(COMMITS)
    here.box.put("k", {"sr": [ct_slice(1)], "seg": [ct_slice(2)]})
    here.box.step()
    assert here.told == [("delivered", "k")]
    [(transaction, uids)] = here.archive.asked
    assert uids == ["1.2.3.1", "1.2.3.2"]
    here.reopen()  # the report may come after a restart
    assert here.box.reported(Report(transaction, uids))
    assert here.told == [("delivered", "k"), ("confirmed", "k")]
    here.run(500)
    assert len(here.archive.asked) == 1 and len(here.told) == 2


def test_what_an_archive_does_not_commit_to_is_sent_once_more_and_then_told(office):
    here = office(COMMITS)
    here.box.put("k", {"sr": [ct_slice(1), ct_slice(2)]})
    here.box.step()
    transaction, _ = here.archive.asked[0]
    here.box.reported(Report(transaction, ["1.2.3.2"], {"1.2.3.1": "it has no such object"}))
    here.box.step()
    assert here.archive.got == ["1.2.3.1", "1.2.3.2", "1.2.3.1"]
    transaction, uids = here.archive.asked[1]
    assert uids == ["1.2.3.1"]
    here.box.reported(Report(transaction, [], {"1.2.3.1": "it has no such object"}))
    assert here.told[-1] == ("given up", "k", "PACS@10.0.0.5:104: it did not commit: it has no such object")
    assert here.states() == {"1.2.3.1": "given up", "1.2.3.2": "committed"}


def test_an_archive_that_does_not_report_is_asked_again(office):
    here = office(COMMITS)
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.run(99)
    assert len(here.archive.asked) == 1
    here.run(10)
    assert len(here.archive.asked) == 2 and here.archive.got == ["1.2.3.1"]
    assert here.box.reported(Report(here.archive.asked[1][0], ["1.2.3.1"]))
    assert here.told[-1] == ("confirmed", "k")


def test_a_report_of_an_unknown_request_changes_nothing(office):
    here = office(COMMITS)
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.box.step()
    assert not here.box.reported(Report("2.25.7", ["1.2.3.1"]))
    assert here.states() == {"1.2.3.1": "sent"}


def test_what_the_application_did_not_take_is_told_again(office):
    here = office()
    here.box.put("k", {"sr": [ct_slice(1)]})
    broken, here.box._on_delivered = here.box._on_delivered, lambda key: 1 / 0
    here.box.step()
    here.box._on_delivered = broken
    here.box.step()
    assert here.told == [("delivered", "k")]


def test_files_go_when_they_are_delivered_and_their_uids_stay_known(office):
    here = office()
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.archive.does["1.2.3.2"] = Outcome(Fate.LATER, "full")
    here.box.put("waits", {"sr": [ct_slice(2)]})
    here.run(10000, every=100)
    assert len(list((here.folder / "objects").iterdir())) == 1
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.run(10)
    assert here.archive.got == ["1.2.3.1"]


def test_what_waits_for_an_archive_that_is_gone_waits_for_its_return(office, caplog):
    here = office()
    here.archive.down = True
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.run(3)
    there, here.to = here.to, []
    here.reopen()
    assert "1 object(s) wait for PACS@10.0.0.5:104, which is no destination now" in caplog.text
    here.to, here.archive.down = there, False
    here.reopen()
    here.run(1000, every=10)
    assert here.archive.got == ["1.2.3.1"]


def test_nothing_of_the_patient_is_in_names_and_logs(office, caplog):
    caplog.set_level("DEBUG")
    here = office("dicom+scu://PACS@10.0.0.5:104?kinds=sr&attempts=1")
    here.archive.down = True
    here.box.put("k", {"sr": [ct_slice(1)]})
    here.run(5)
    text = caplog.text + " ".join(str(path) for path in here.folder.rglob("*")) + repr(here.told)
    assert "given up" in text and "Secret" not in text and "PID77" not in text
    assert (here.folder / "outbox.db").stat().st_mode & 0o077 == 0


def test_a_file_that_is_gone_holds_nothing_up(office):
    here = office()
    here.box.put("bad", {"sr": [ct_slice(1)]})
    next((here.folder / "objects").iterdir()).unlink()
    here.box.put("good", {"sr": [ct_slice(2)]})
    assert not here.box.wait(0)
    here.box.step()
    assert here.archive.got == ["1.2.3.2"] and here.box.wait(0)
    assert ("given up", "bad", "PACS@10.0.0.5:104: its file is gone from the outbox") in here.told


def test_a_power_cut_at_any_step_loses_nothing_that_was_put(tmp_path):
    """What `put` has taken is there, whole; what it has not can be put again; nothing is sent twice."""
    answer = {"sr": [ct_slice(1), ct_slice(2)]}
    for steps in range(40):
        here = Office(tmp_path / str(steps), disk=CutDisk(None))
        disk = here.box._disk
        disk.left, disk.after = steps // 2, bool(steps % 2)
        try:
            here.box.put("k", answer)
            taken = True
        except PowerCut:
            taken = False
        disk.left = None
        here.box.close()
        disk.outage()
        here.disk = Disk()
        here.box = here.open()
        if not taken:
            here.box.put("k", answer)
        here.box.step()
        here.box.close()
        assert sorted(here.archive.got) == ["1.2.3.1", "1.2.3.2"] and here.told == [("delivered", "k")]
        assert len(list((here.folder / "objects").iterdir())) == 2
    assert taken and disk.left is None


def test_an_object_without_a_uid_is_an_error(office):
    bad = ct_slice(1)
    del bad.SOPInstanceUID
    with pytest.raises(UsageError, match="cannot be sent"):
        office().box.put("k", {"sr": [bad]})


def test_one_process_at_a_time(office):
    here = office()
    with pytest.raises(StoreError, match="another process uses it"):
        here.open()


def test_an_archive_is_named_once(tmp_path):
    with pytest.raises(UsageError, match="twice"):
        Outbox(tmp_path, [destination(PACS), destination(PACS)])
