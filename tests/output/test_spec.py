"""``--output``: what is understood, what is refused, and by which name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import UsageError
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.output.annotations import Annotation, AnnotationLevel
from asyncbuild.output.spec import Compression, OutputKind, OutputSpec, parse_output

OCI, DOCKER, IMAGE = OutputKind.OCI, OutputKind.DOCKER, OutputKind.IMAGE


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("type=oci,dest=out.tar", OutputSpec(OCI, "out.tar")),
        ("type=oci,dest=out,tar=false", OutputSpec(OCI, "out", tar=False)),
        ("type=oci,dest=out,tar=F", OutputSpec(OCI, "out", tar=False)),
        ("type=docker,dest=-", OutputSpec(DOCKER, "-")),
        ('type=docker,"dest=a,b.tar"', OutputSpec(DOCKER, "a,b.tar")),
        ("type=image", OutputSpec(IMAGE)),
        ("type=image,push=true", OutputSpec(IMAGE, push=True)),
        ("type=registry", OutputSpec(IMAGE, push=True)),
        ("type=registry,push=false", OutputSpec(IMAGE)),
        ("push=true,type=image", OutputSpec(IMAGE, push=True)),
        (
            'type=image,"name=localhost:5000/a:1,b"',
            OutputSpec(IMAGE, names=(Reference.parse("localhost:5000/a:1"), Reference.parse("b"))),
        ),
        (
            "type=image,compression=zstd,compression-level=22",
            OutputSpec(IMAGE, compression=Compression.ZSTD, level=22),
        ),
        (
            "type=image,compression-level=0",
            OutputSpec(IMAGE, compression=Compression.GZIP, level=0),
        ),
        ("type=image,registry.insecure=true", OutputSpec(IMAGE, insecure=True)),
        ("type=docker,dest=x,oci-mediatypes=true", OutputSpec(DOCKER, "x", oci_media_types=True)),
        (
            "type=image,annotation.Key=V,annotation-manifest-descriptor[linux/arm64].k=v=w",
            OutputSpec(
                IMAGE,
                annotations=(
                    Annotation("Key", "V"),
                    Annotation("k", "v=w", AnnotationLevel.DESCRIPTOR, Platform("linux", "arm64")),
                ),
            ),
        ),
    ],
)
def test_understood(text: str, spec: OutputSpec) -> None:
    """A value becomes exactly this specification."""
    assert parse_output(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out", "type=local"),
        ("type=local,dest=out", "type=local"),
        ("-", "type=tar"),
        ("type=tar,dest=out", "type=tar"),
        ("type=cacheonly", "type=cacheonly"),
        ("type=ipfs", "type=ipfs is unknown"),
        ("dest=out,tar=false", "type= is missing"),
        ("type=", "type= is missing"),
        ("type=oci", "dest= is missing"),
        ("type=oci,dest=", "dest= is missing"),
        ("type=oci,dest=-,tar=false", "standard output"),
        ("type=oci,dest=x,push=true", "push="),
        ("type=docker", "daemon"),
        ("type=docker,dest=x,tar=false", "tar=false"),
        ("type=image,dest=x", "dest="),
        ("type=image,push=yes", "push=yes"),
        ("type=image,push-by-digest=true", "push-by-digest= is not in this version"),
        ("type=image,force-compression=true", "force-compression= is not in this version"),
        (
            "type=oci,dest=x,rewrite-timestamp=yes",
            "rewrite-timestamp=yes is neither true nor false",
        ),
        ("type=image,compression=estargz", "compression=estargz is not in this version"),
        ("type=image,compression=lzma", "compression=lzma is unknown"),
        ("type=image,compression-level=10", "compression-level=10"),
        ("type=image,compression-level=-1", "compression-level=-1"),
        ("type=image,compression-level=٣", "compression-level"),
        ("type=image,compression=uncompressed,compression-level=1", "compression-level"),
        ("type=image,compression=zstd,oci-mediatypes=false", "oci-mediatypes=true"),
        ("type=oci,dest=x,oci-mediatypes=false", "OCI media types"),
        ("type=image,name=UPPER", "lower case"),
        ("type=image,colour=red", "colour= is unknown"),
        ("type=image,annotation-index.k=v", "index"),
        ("type=image,annotation-layer.k=v", "layer is not a level"),
        ("type=image,annotation[a/b/c/d].k=v", "not a platform"),
        ("type=image,annotation.=v", "annotation"),
    ],
)
def test_refused(text: str, said: str) -> None:
    """A value that is wrong or not in this version is refused with the part that is meant."""
    with pytest.raises(UsageError) as caught:
        parse_output(text)
    assert said in caught.value.message
    assert caught.value.exit_code == 2


_WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_ANNOTATIONS = st.builds(
    Annotation,
    # A key ends at the first "=" of the field, and spaces around it are trimmed.
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9./_-]{0,8}", fullmatch=True),
    _WORDS,
    st.sampled_from(AnnotationLevel),
    st.sampled_from([None, Platform("linux", "amd64"), Platform("linux", "arm", "v7")]),
)
_NAMES = st.sampled_from(["a:1", "localhost:5000/b/c:2", "r.example/d@sha256:" + "0" * 64])
_LEVELS = st.sampled_from([(Compression.GZIP, 0), (Compression.ZSTD, 19), (None, None)])


@st.composite
def _specs(draw: st.DrawFn) -> OutputSpec:
    kind = draw(st.sampled_from(OutputKind))
    compression, level = draw(_LEVELS)
    found = draw(st.lists(_ANNOTATIONS, max_size=3))
    return OutputSpec(
        kind,
        None if kind is IMAGE else draw(_WORDS),
        tuple(Reference.parse(name) for name in draw(st.lists(_NAMES, max_size=2))),
        push=kind is IMAGE and draw(st.booleans()),
        insecure=draw(st.booleans()),
        compression=compression,
        level=level,
        oci_media_types=draw(st.sampled_from([None, True])),
        annotations=tuple({item.attribute[0]: item for item in found}.values()),
    )


@given(_specs())
def test_round_trip(spec: OutputSpec) -> None:
    """The text of a specification is read back as the same specification."""
    assert parse_output(str(spec)) == spec
