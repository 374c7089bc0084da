"""``asyncbuild pin``: only names of images change, and an independent parser says the same.

The independent parser is dockerfile-parse. It knows no heredocs and no escape directive, so it judges
files that have neither.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from asyncbuild.cli import main
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.image.digest import Digest
from asyncbuild.plan.pinning import Mention, Standing, find_mentions, pinned, rewrite

DIGEST = Digest.of(b"an image")
LAYOUT = b"""\
# escape=\\
ARG BASE=debian
FROM  --platform=$BUILDPLATFORM   debian:12   AS debian  # not a remark
FROM \\
  # golang:1.24
  golang:1.24 as build\r
RUN --mount=type=bind,from=alpine,source=/x,target=/y --mount=from=build,target=/z make
copy --from=busybox:1 --chown=1:1 \\
   /bin/busybox /bin/
COPY --from=debian:12 /etc/debian_version /
COPY --from=0 /a /b
FROM $BASE
FROM scratch
COPY --from="alpine:3" /etc/os-release /
"""


def texts(found: tuple[Mention, ...]) -> list[tuple[str, str, Standing]]:
    """Mentions without their places."""
    return [(item.where, item.text, item.standing) for item in found]


def test_find() -> None:
    """Images are found wherever they can be named; stages, numbers and scratch are none."""
    text = LAYOUT.replace(b"  # not a remark", b"")
    assert texts(find_mentions(parse_dockerfile(text))) == [
        ("FROM", "debian:12", Standing.OPEN),
        ("FROM", "golang:1.24", Standing.OPEN),
        ("RUN --mount", "alpine", Standing.OPEN),
        ("COPY --from", "busybox:1", Standing.OPEN),
        ("COPY --from", "debian:12", Standing.OPEN),
        ("FROM", "$BASE", Standing.VARIABLE),
        ("COPY --from", "alpine:3", Standing.OPEN),
    ]


def test_rewrite_changes_nothing_else() -> None:
    """Taking the digests out again gives the same bytes, line ends and comments included."""
    text = LAYOUT.replace(b"  # not a remark", b"")
    found = find_mentions(parse_dockerfile(text))
    changes = {m: pinned(m.text, DIGEST) for m in found if m.reference}
    result, missed = rewrite(text, changes)
    assert missed == ()
    assert result.count(str(DIGEST).encode()) == 6
    assert result.replace(f"@{DIGEST}".encode(), b"") == text
    assert b"  # golang:1.24\n" in result
    again = find_mentions(parse_dockerfile(result))
    assert [item.standing for item in again].count(Standing.PINNED) == 6


def test_an_independent_parser_agrees() -> None:
    """dockerfile-parse sees the same instructions in the same lines; only images differ, by the digest."""
    text = LAYOUT.replace(b"  # not a remark", b"").replace(b"\r", b"")
    changes = {
        mention: pinned(mention.text, DIGEST)
        for mention in find_mentions(parse_dockerfile(text))
        if mention.reference
    }
    before = DockerfileParser(fileobj=io.BytesIO(text))
    after = DockerfileParser(fileobj=io.BytesIO(rewrite(text, changes)[0]))
    assert after.parent_images[:2] == [f"debian:12@{DIGEST}", f"golang:1.24@{DIGEST}"]
    unpinned = [
        {key: str(value).replace(f"@{DIGEST}", "") for key, value in item.items()}
        for item in after.structure
    ]
    assert unpinned == [{k: str(v) for k, v in item.items()} for item in before.structure]


def test_a_heredoc_is_not_touched() -> None:
    """A FROM in the body of a heredoc is text."""
    text = b"FROM a\nRUN <<E\nFROM b\nCOPY --from=c / /\nE\n"
    (mention,) = find_mentions(parse_dockerfile(text))
    assert rewrite(text, {mention: "a@x"})[0] == text.replace(b"FROM a\n", b"FROM a@x\n")


@pytest.mark.parametrize("text", [b"FROM deb\\\nian", b'FROM a\nCOPY --from=bus"y"box / /'])
def test_names_in_pieces(text: bytes) -> None:
    """A name that does not stand in one piece is left alone, and told."""
    mention = find_mentions(parse_dockerfile(text))[-1]
    assert rewrite(text, {mention: "new"}) == (text, (mention,))


def test_pinned() -> None:
    """A tag stays, an old digest goes."""
    assert pinned("a:1", DIGEST) == f"a:1@{DIGEST}"
    assert pinned(f"a:1@sha256:{'0' * 64}", DIGEST) == f"a:1@{DIGEST}"


@pytest.mark.integration
def test_pin(
    tmp_path: Path, multiarch_base: str, busybox_base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file gets the digests of the registry, an index's for several platforms; then it is pinned."""
    path = tmp_path / "Dockerfile"
    path.write_text(f"FROM {multiarch_base}\nCOPY --from={busybox_base} /bin /b\nFROM a$X\n")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert main(["pin", "--check", str(path)]) == 1
    assert main(["pin", "--check", "--update", str(path)]) == 1
    assert "@" not in path.read_text()
    assert main(["pin", str(link)]) == 0
    assert link.is_symlink()
    first, second, third = path.read_text().splitlines()
    assert first.startswith(f"FROM {multiarch_base}@sha256:")
    assert second.startswith(f"COPY --from={busybox_base}@sha256:")
    assert third == "FROM a$X"
    assert path.stat().st_mode & 0o777 == 0o640
    assert main(["pin", "--check", str(path)]) == 0
    assert "FROM a$X: depends on a variable" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["Dockerfile", "link"]


@pytest.mark.integration
def test_update(tmp_path: Path, busybox_base: str) -> None:
    """With --update a tag's old digest is replaced; a digest without a tag stays."""
    path = tmp_path / "Dockerfile"
    old = f"sha256:{'0' * 64}"
    alone = f"FROM {busybox_base.removesuffix(':latest')}@{old}"
    path.write_text(f"FROM {busybox_base}@{old}\n{alone}\n")
    assert main(["pin", str(path)]) == 0
    assert path.read_text().startswith(f"FROM {busybox_base}@{old}\n")
    assert main(["pin", "--update", str(path)]) == 0
    first, second = path.read_text().splitlines()
    assert old not in first
    assert second == alone


@pytest.mark.integration
def test_an_image_that_does_not_exist(tmp_path: Path, busybox_base: str) -> None:
    """The file stays as it was, and the exit code is the registry's."""
    path = tmp_path / "Dockerfile"
    text = f"FROM {busybox_base}\nFROM {busybox_base.replace('busybox', 'nowhere')}\n"
    path.write_text(text)
    assert main(["pin", str(path)]) == 66
    assert path.read_text() == text


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is an input that is missing."""
    assert main(["pin", str(tmp_path / "Dockerfile")]) == 66
