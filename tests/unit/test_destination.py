"""Addresses of archives: what they mean, and what a wrong one says."""

import pytest

from edge.dicom.delivery.destination import ScuDestination, StowDestination, destination
from edge.errors import UsageError


def test_an_archive_of_c_store():
    to = destination(
        "dicom+scu://MAIN%20PACS@pacs.example:11112?aet=BOX&kinds=sr,seg&fallback=sc,seg&syntax=implicit"
    )
    assert isinstance(to, ScuDestination)
    assert (to.called, to.host, to.port, to.aet) == ("MAIN PACS", "pacs.example", 11112, "BOX")
    assert to.kinds == ("sr", "seg") and to.fallback == ("sc",)
    assert to.syntax == "1.2.840.10008.1.2" and to.name == "MAIN PACS@pacs.example:11112"
    assert not to.commits and to.attempts == 0


def test_the_standard_port_and_an_address_of_ipv6():
    to = destination("dicom+scu://PACS@[::1]?commitment=yes")
    assert isinstance(to, ScuDestination) and (to.host, to.port) == ("::1", 104) and to.commits


def test_an_archive_of_stow_keeps_its_password_to_itself():
    to = destination("stow+https://jane:s3cret%40x@pacs.example:8443/dicom-web/?kinds=sr")
    assert isinstance(to, StowDestination)
    assert to.url == to.name == "https://pacs.example:8443/dicom-web" and to.login == ("jane", "s3cret@x")
    assert "s3cret" not in repr(to)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("dicom+scp://A@h", "did you mean 'dicom+scu'"),
        ("PACS@10.0.0.5", "written as scheme://place"),
        ("dicom+scu://A@h?kindz=sr", "did you mean 'kinds'"),
        ("dicom+scu://A@h?kinds=srr", "did you mean 'sr'"),
        ("dicom+scu://A@h?kinds=", "kinds is empty"),
        ("dicom+scu://A@h?syntax=implicid", "did you mean 'implicit'"),
        ("dicom+scu://A@h?attempts=-1", "not negative"),
        ("dicom+scu://A@h?commitment=maybe", "not a value"),
        ("dicom+scu://A@h?reports=nowhere", "host:port"),
        ("dicom+scu://A@h?ca=/missing.pem", "no file"),
        ("dicom+scu://A@h:99999", "no address"),
        ("dicom+scu://A@h/path", "no address"),
        ("dicom+scu://h:104", "1 to 16 ASCII characters"),
        ("dicom+scu://SEVENTEEN_LETTERS@h", "1 to 16 ASCII characters"),
        ("dicom+scu://A@", "names no host"),
        ("stow+http://pacs.example/web", "in clear"),
        ("stow+https://h/web?aet=BOX", "no setting 'aet'"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(address, says):
    with pytest.raises(UsageError) as caught:
        destination(address)
    assert says in str(caught.value)


@pytest.mark.parametrize("wrong", ["?kindz=sr", "?kinds=x", ":port/"])
def test_no_error_shows_a_password(wrong):
    with pytest.raises(UsageError) as caught:
        destination(f"stow+https://jane:s3cret@h{wrong}")
    assert "s3cret" not in str(caught.value)
