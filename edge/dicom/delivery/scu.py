"""C-STORE, C-ECHO and storage commitment as a service class user (SCU), on pynetdicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edge.dicom.delivery import commitment
from edge.dicom.delivery.carrier import Fate, Outcome, Parcel, Report, Unreachable, outcome_of
from edge.dicom.delivery.destination import SYNTAXES, ScuDestination
from edge.dicom.delivery.recode import PLAIN, can_recode, recoded
from edge.dicom.receiving.receiver import quiet_pynetdicom
from edge.errors import EdgeError

VERIFICATION = "1.2.840.10008.1.1"

CONTEXTS = 120
"""Presentation contexts proposed at once; there is room for 128 (PS3.8 9.3.2.2)."""

SLOWEST = 1 << 20
"""Bytes a second: an archive has this much longer to answer for a large object."""


class ScuCarrier:
    """The way to an archive that takes C-STORE; one association for all objects of a call.

    Raises:
        MissingPackage: pynetdicom is not installed.
        InputError: its certificates cannot be used.
    """

    def __init__(self, destination: ScuDestination) -> None:
        self._to = destination
        quiet_pynetdicom()
        from pynetdicom import _config

        from edge.dicom.delivery.connection import Client

        _config.STORE_SEND_CHUNKED_DATASET = True  # files go out as they are, without being decoded
        self._entity = Client(destination.aet, destination.timeout)
        self._tls = (destination.certificates.context(), destination.host) if destination.tls else None

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Outcome]]:
        for group in self._groups(parcels):
            wanted = dict.fromkeys(pair for parcel in group for pair in self._contexts(parcel))
            pairs = [*wanted, (VERIFICATION, SYNTAXES["implicit"])]
            with self._association(pairs, needed=False) as association:
                accepted = {
                    (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                    for context in association.accepted_contexts
                }
                for parcel in group:
                    outcome = self._store(association, parcel, accepted)
                    yield parcel, outcome
                    if not association.is_established and outcome.fate is Fate.LATER:
                        raise Unreachable(self._to.name, outcome.reason)

    def commit(
        self,
        transaction: str,
        parcels: Sequence[Parcel],
        reported: Callable[[Report], bool],
        settled: Callable[[], bool],
    ) -> None:
        syntaxes = [SYNTAXES["explicit"], SYNTAXES["implicit"]]
        heard = commitment.Hearing(reported)
        pairs = [(commitment.PUSH_MODEL, syntax) for syntax in syntaxes]
        with self._association(pairs, heard.handlers) as association:
            references = [(parcel.sop_class, parcel.uid) for parcel in parcels]
            commitment.request(association, transaction, references, self._to.name)
            heard.wait(settled)

    def echo(self) -> str:
        with self._association([(VERIFICATION, SYNTAXES["implicit"])]) as association:
            status = association.send_c_echo().get("Status")
            if status != 0:
                raise Unreachable(self._to.name, "it does not answer a C-ECHO with success")
            peer = association.acceptor
            return str(peer.implementation_version_name or peer.implementation_class_uid or "")

    def close(self) -> None:
        pass  # an association ends with the call that opened it

    def _contexts(self, parcel: Parcel) -> list[tuple[str, str]]:
        """SOP class and transfer syntaxes to propose, best first."""
        others = [SYNTAXES["explicit"], SYNTAXES["implicit"]]
        if parcel.syntax in PLAIN:
            syntaxes = [self._to.syntax, parcel.syntax, *others]
        else:
            syntaxes = [parcel.syntax, *(others if can_recode(parcel.syntax) else ())]
        return [(parcel.sop_class, syntax) for syntax in dict.fromkeys(syntaxes)]

    def _groups(self, parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
        """Parcels whose presentation contexts fit into one association."""
        group: list[Parcel] = []
        pairs: set[tuple[str, str]] = set()
        for parcel in parcels:
            more = pairs | set(self._contexts(parcel))
            if len(more) > CONTEXTS:
                yield group
                group, more = [], set(self._contexts(parcel))
            group.append(parcel)
            pairs = more
        yield group

    def _store(self, association: Any, parcel: Parcel, accepted: set[tuple[str, str]]) -> Outcome:
        chosen = next((pair[1] for pair in self._contexts(parcel) if pair in accepted), "")
        if not chosen:
            return Outcome(Fate.REFUSED, _refusal(association, parcel))
        if not association.is_established:
            return Outcome(Fate.LATER, "the association ended")
        association.dimse_timeout = self._to.timeout + parcel.path.stat().st_size / SLOWEST
        try:
            data = parcel.path if chosen == parcel.syntax else recoded(parcel.path, chosen)
            status = association.send_c_store(data).get("Status")
        except EdgeError as e:
            return Outcome(Fate.REFUSED, str(e))
        except Exception as e:  # pynetdicom's and pydicom's, with values of the header
            if association.is_established:
                return Outcome(Fate.REFUSED, f"it cannot be encoded ({type(e).__name__})")
            status = None
        if status is None:
            return Outcome(Fate.LATER, "the association ended while it was sent")
        return outcome_of(int(status))

    @contextmanager
    def _association(
        self, pairs: Sequence[tuple[str, str]], handlers: Sequence[Any] = (), needed: bool = True
    ) -> Iterator[Any]:
        """An association with these presentation contexts.

        Args:
            needed: one of them must be accepted; otherwise it may be over at once.

        Raises:
            Unreachable: it cannot be established.
        """
        from pynetdicom.presentation import build_context

        contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
        how: Any = {"tls_args": self._tls, "evt_handlers": list(handlers)}
        try:
            association = self._entity.associate(
                self._to.host, self._to.port, contexts, ae_title=self._to.called, **how
            )
        except OSError as e:  # the name of the host is unknown
            raise Unreachable(f"no association with {self._to.name}", e.strerror or str(e), _FIX) from e
        try:
            if not association.is_established and (needed or not association.rejected_contexts):
                raise Unreachable(f"no association with {self._to.name}", _why(association), _FIX)
            yield association
        finally:
            if association.is_established:
                association.release()


_FIX = "check its address, AE titles and that it runs"


NO_SUCH_CLASS = 3
"""Result of a presentation context whose abstract syntax is not supported (PS3.8 9.3.3.2)."""


def _refusal(association: Any, parcel: Parcel) -> str:
    """Why no presentation context was accepted."""
    from pydicom.uid import UID

    results = [
        context.result
        for context in association.rejected_contexts
        if context.abstract_syntax == parcel.sop_class
    ]
    name = UID(parcel.sop_class).name
    if NO_SUCH_CLASS in results:
        return f"it does not take {name}"
    return f"it takes {name} in none of the transfer syntaxes that are offered"


def _why(association: Any) -> str:
    """Why an association was not established."""
    failure = getattr(association, "failure", None)
    if failure is not None:
        return failure.strerror or str(failure) or type(failure).__name__
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return f"it rejects the association: {answer.reason_str.lower()}"
    if association.rejected_contexts:
        return "it takes none of the SOP classes"
    return "it does not answer, or aborts the association"
