"""The metadata file and the image ID file."""

import json
import os
from pathlib import Path

import pytest

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_MANIFEST, Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.report.metadata import (
    BuildRecord,
    ImageFacts,
    render_metadata,
    write_iidfile,
    write_metadata_file,
)
from support.progress_cases import Case

CONFIG = Digest("sha256", "0c" * 32)
FACTS = ImageFacts(
    Descriptor(OCI_MANIFEST, Digest("sha256", "0d" * 32), 506),
    CONFIG,
    (Reference.parse("localhost:5000/app:1"), Reference.parse("app:2")),
)


def test_cases(case: Case) -> None:
    """What the file says after each sequence of events."""
    record = BuildRecord()
    case.play(lambda _: record)
    case.compare("metadata.json", render_metadata(FACTS, record).decode())


def test_members_of_buildx() -> None:
    """The members that buildx writes have its names and forms."""
    value = json.loads(render_metadata(FACTS, BuildRecord()))
    ours = [name for name in value if name.startswith("asyncbuild.")]
    assert {name: item for name, item in value.items() if name not in ours} == {
        "containerimage.config.digest": str(CONFIG),
        "containerimage.descriptor": {
            "digest": "sha256:" + "0d" * 32,
            "mediaType": OCI_MANIFEST,
            "size": 506,
        },
        "containerimage.digest": "sha256:" + "0d" * 32,
        "image.name": "localhost:5000/app:1,docker.io/library/app:2",
    }
    assert "image.name" not in json.loads(
        render_metadata(ImageFacts(FACTS.descriptor, CONFIG), BuildRecord())
    )


def test_files(shm_path: Path) -> None:
    """Both files appear by rename; the image ID has no newline."""
    write_metadata_file(shm_path / "m.json", FACTS, BuildRecord())
    write_iidfile(shm_path / "iid", CONFIG)
    assert (shm_path / "m.json").read_bytes() == render_metadata(FACTS, BuildRecord())
    assert (shm_path / "iid").read_bytes() == str(CONFIG).encode()
    assert sorted(os.listdir(shm_path)) == ["iid", "m.json"]


def test_links_and_devices(shm_path: Path) -> None:
    """A link's file is replaced, a device is written to."""
    (shm_path / "link").symlink_to("iid")
    write_iidfile(shm_path / "link", CONFIG)
    assert (shm_path / "iid").read_text() == str(CONFIG)
    write_iidfile(Path("/dev/null"), CONFIG)
    assert Path("/dev/null").is_char_device()


def test_errors(shm_path: Path) -> None:
    """A missing directory is an input error, anything else the disk's; nothing is left behind."""
    with pytest.raises(InputError, match="No such file"):
        write_iidfile(shm_path / "no/iid", CONFIG)
    with pytest.raises(StoreError, match="Is a directory"):
        write_iidfile(shm_path, CONFIG)
    with pytest.raises(StoreError, match="No space left"):
        write_iidfile(Path("/dev/full"), CONFIG)
    assert os.listdir(shm_path) == []
