"""The tables of the conformance statement (PS3.2) in docs/dicom.md, from what the code does."""

from __future__ import annotations

import textwrap

from edge.docs import table

ANSWERS = {
    "sr": ("1.2.840.10008.5.1.4.1.1.88.33",),
    "seg": ("1.2.840.10008.5.1.4.1.1.66.4",),
    "sc": ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4"),
    "gsps": ("1.2.840.10008.5.1.4.1.1.11.1",),
    "ko": ("1.2.840.10008.5.1.4.1.1.88.59",),
}
"""SOP classes of each kind of answer."""

TOLD = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111, 0xA700, 0x0110, 0x0124, 0xA900, 0xC000, 0x0117, 0x0122)
"""Statuses of other SCPs that the statement speaks of (PS3.4 B.2.3, PS3.7 C)."""


ROOT = "1.2.840.10008."
"""Of the UIDs of the standard (PS3.6 A)."""


def named(uid: str) -> str:
    """Name and UID; the UID without its root."""
    from pydicom.uid import UID

    return f"{UID(uid).name} `{uid.removeprefix(ROOT)}`"


def services() -> str:
    """Which service class is used or provided, with what."""
    from edge.dicom.delivery.commitment import PUSH_MODEL
    from edge.dicom.delivery.scu import VERIFICATION
    from edge.dicom.receiving.receiver import STORAGE_ROOT, storage_classes

    both, echo = "explicit, implicit VR little endian", named(VERIFICATION)
    storage = (
        f"all {len(storage_classes())} storage classes (`{STORAGE_ROOT.removeprefix(ROOT)}…`), retired ones"
    )
    kinds = "; ".join(f"`{kind}`: {', '.join(map(named, uids))}" for kind, uids in ANSWERS.items())
    rows = [
        ("SCP", "Storage", f"{storage} too; private ones with `any_class=1`", "[all](#transfer-syntaxes)"),
        ("SCP", "Verification", echo, "uncompressed ones, deflated"),
        ("SCU", "Storage, answers", kinds, f"{both}; deflated with `syntax=deflated`"),
        ("SCU", "Storage, `edge dicom send`", "those of the files", f"the file's own; {both}"),
        (
            "SCU",
            "Storage Commitment: N-ACTION; N-EVENT-REPORT on its association or an incoming one",
            named(PUSH_MODEL),
            both,
        ),
        ("SCU", "Verification, `edge dicom echo`", echo, "implicit VR little endian"),
        (
            "user agent",
            "STOW-RS: store, `application/dicom`",
            "as Storage, SCU",
            "as Storage, SCU",
        ),
        ("user agent", "QIDO-RS: studies, instances, `application/dicom+json`", "any", "–"),
        (
            "user agent",
            "WADO-RS: instances, `application/dicom`",
            "any",
            "the service's own (`transfer-syntax=*`)",
        ),
    ]
    return table(("role", "service", "SOP classes", "transfer syntaxes"), rows)


def syntaxes() -> str:
    """What is received."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    words = " · ".join(named(uid) for uid in ALL_TRANSFER_SYNTAXES)
    return textwrap.fill(words, 118, break_on_hyphens=False, break_long_words=False)


def associations() -> str:
    """Association policies of both sides."""
    from edge.dicom.delivery.commitment import LINGER, REPORT_ASSOCIATIONS, REPORT_IDLE
    from edge.dicom.delivery.connection import Client
    from edge.dicom.delivery.destination import COMMON, DICOM_PORT, SCU
    from edge.dicom.delivery.scu import CONTEXTS
    from edge.dicom.receiving.association import NEGOTIATION_BYTES
    from edge.dicom.receiving.encoding import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION
    from edge.dicom.receiving.landing import MAX_COMMAND_BYTES
    from edge.dicom.receiving.receiver import ReceiverSettings, acse_timeout, connections
    from edge.sources.dicom_scp import OWN, PORT

    scp, wait = ReceiverSettings(), float(str(COMMON["timeout"]))
    scu = Client("EDGE", wait)
    own = f"`{IMPLEMENTATION_CLASS}`, `{IMPLEMENTATION_VERSION}`"
    idle, at_once = float(OWN["idle"]), int(OWN["associations"])
    rows = [
        ("AE title", f"`{OWN['aet']}`; `aet`", f"`{SCU['aet']}`; `aet`"),
        ("port", f"{PORT}", f"the archive's, {DICOM_PORT} where none is given"),
        ("PDU size, largest received", f"{scp.pdu}", f"{scu.maximum_pdu_size}"),
        ("PDU size, largest sent", "what the peer takes", "what the peer takes"),
        ("longest request for an association", f"{NEGOTIATION_BYTES} bytes", "–"),
        ("longest command set", f"{MAX_COMMAND_BYTES} bytes", "–"),
        (
            "presentation contexts",
            "as many as there are",
            f"at most {CONTEXTS} an association; then another one",
        ),
        ("associations at once", f"{at_once}; `associations`", "one an archive"),
        ("connections at once, whatever their state", f"{connections(at_once)}", "–"),
        ("silence until it is aborted", f"{idle:g} s; `idle`", f"{wait:g} s; `timeout`"),
        ("wait for ACSE messages", f"{acse_timeout(idle):g} s", f"{wait:g} s; `timeout`"),
        ("wait for the end of a PDU", f"{idle:g} s; `idle`", f"{wait:g} s; `timeout`"),
        ("held for a report of storage commitment", "–", f"{LINGER:g} s"),
        ("at `reports`: associations, silence", "–", f"{REPORT_ASSOCIATIONS}, {REPORT_IDLE:g} s"),
        ("asynchronous operations", "one at a time", "one at a time"),
        ("implementation class UID, version name", own, own),
    ]
    return table(("", "SCP: `dicom+scp`", "SCU: `dicom+scu`"), rows)


def statuses() -> str:
    """What is answered, and what is made of answers."""
    from edge.dicom.delivery import commitment
    from edge.dicom.delivery.carrier import Fate, outcome_of, words
    from edge.dicom.receiving import landing

    made = {
        Fate.STORED: "stored",
        Fate.LATER: "tried later",
        Fate.REFUSED: "refused: `fallback`, or given up",
    }
    rows = [
        (
            "C-STORE, answered",
            landing.SUCCESS,
            "it is on the disk; a different one under its UID is, too, in the quarantine",
        ),
        ("", landing.OUT_OF_RESOURCES, "too little space, or the disk failed; nothing is kept"),
        ("", landing.CANNOT_UNDERSTAND, "no data set, or a request without SOP class or instance UID"),
        ("C-ECHO, answered", landing.SUCCESS, "always"),
        ("N-EVENT-REPORT, answered", commitment.SUCCESS, "the report is kept"),
        ("", commitment.PROCESSING_FAILURE, "it cannot be kept now"),
        ("", commitment.INVALID_ARGUMENT, "nobody asked for it, or it is none"),
        *(
            ("" if number else "C-STORE, taken", status, f"{said}{made[outcome_of(status).fate]}")
            for number, status in enumerate(TOLD)
            for said in ["" if status == 0 else words(status).rpartition(" (")[0] + ": "]
        ),
    ]
    return table(("", "status", "meaning"), ((what, f"0x{status:04X}", why) for what, status, why in rows))
