"""Which fields of which instruction are expanded."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.expansion import expand
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from support.dockerfiles import parse_one

ENV = {"A": "one", "B": "two words", "P": "80 443/udp", "E": ""}


def expanded(text: str) -> i.Instruction:
    """The instruction of one line, expanded with ENV."""
    return expand(parse_one(text), ENV, "\\").instruction


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "ENV X=$A Y='$A' Z=\"$B\" W=$B",
            (("X", "one"), ("Y", "$A"), ("Z", "two words"), ("W", "two words")),
        ),
        ("ENV A=1 X=$A", (("A", "1"), ("X", "one"))),
        ("ENV $A=x", (("one", "x"),)),
        ('ENV old $A and "$B"', (("old", "one and two words"),)),
        ('LABEL "k $A"=v$A', (("k one", "vone"),)),
    ],
)
def test_pairs(before: str, after: tuple[tuple[str, str], ...]) -> None:
    """Names and values of ENV and LABEL see the environment before the line."""
    instruction = expanded(before)
    assert isinstance(instruction, i.Env | i.Label)
    assert tuple((pair.name, pair.value) for pair in instruction.pairs) == after


def test_copy() -> None:
    """COPY expands paths, --chown and --chmod; not --from, not --exclude."""
    instruction = expanded(
        "COPY --from=$A --exclude=$A --chown=$A:$A --chmod=7${E}55 $A/* '$A' /$A/"
    )
    assert instruction == i.Copy(
        ("one/*", "$A"), "/one/", from_="$A", excludes=("$A",), chown="one:one", chmod="755"
    )


def test_add_checksum() -> None:
    """ADD expands --checksum too."""
    instruction = expanded("ADD --checksum=sha256:$A https://x/$A /")
    assert isinstance(instruction, i.Add)
    assert instruction.checksum == "sha256:one"
    assert instruction.sources == ("https://x/one",)


def test_heredocs_of_copy() -> None:
    """A heredoc's body is expanded unless its word is quoted; its quotes are text."""
    text = "COPY <<-a <<'b' /x/\n\tit's \"$A\" \\$A\na\n\t$A\nb"
    instruction = expanded(text)
    assert isinstance(instruction, i.Copy)
    assert [heredoc.content for heredoc in instruction.heredocs] == ['it\'s "one" $A\n', "\t$A\n"]


def test_run_is_left_alone() -> None:
    """A RUN's command and heredocs are the shell's; only its mounts are expanded."""
    instruction = expanded('RUN --mount=type=cache,target=/$A,id="$B" echo $A <<X\n$A\nX')
    assert isinstance(instruction, i.Run)
    assert instruction.command == ("echo $A <<X",)
    assert instruction.heredocs[0].content == "$A\n"
    mount = instruction.mounts[0].mount()
    assert (mount.target, mount.id) == ("/one", "two words")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("WORKDIR /$A/$B", i.Workdir("/one/two words")),
        ("USER ${A}:$E", i.User("one:")),
        ('VOLUME /$A ["x"]', i.Volume(("/one", "[x]"))),
        ('VOLUME ["/$A"]', i.Volume(("/one",))),
        ("STOPSIGNAL ${SIG:-SIGTERM}", i.Stopsignal("SIGTERM")),
        ("STOPSIGNAL rtmin+3", i.Stopsignal("rtmin+3")),
        ("STOPSIGNAL 9", i.Stopsignal("9")),
        ("EXPOSE 1-2 $P", i.Expose(("80/tcp", "443/udp", "1/tcp", "2/tcp"))),
        ("CMD echo $A", i.Cmd(("echo $A",))),
        ('ENTRYPOINT ["$A"]', i.Entrypoint(("$A",), shell_form=False)),
        ('SHELL ["$A"]', i.Shell(("$A",))),
        ("HEALTHCHECK CMD $A", i.Healthcheck(("CMD-SHELL", "$A"))),
        ("MAINTAINER $A", i.Maintainer("$A")),
        ("ONBUILD ENV X=$A", i.Onbuild("ENV X=$A", i.Env((i.Pair("X", "$A"),)))),
    ],
)
def test_other_instructions(before: str, after: i.Instruction) -> None:
    """Everything else, with what stays as it is written."""
    assert expanded(before) == after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV X=${A", "missing '}'"),
        ("ENV $E=x", "name of ENV is empty"),
        ("LABEL $unset=x", "name of LABEL is empty"),
        ("COPY --chmod=rwx a b", "not a mode"),
        ("VOLUME $unset", "path is empty"),
        ("STOPSIGNAL SIGTREM", "not a signal"),
        ("STOPSIGNAL 0", "not a signal"),
        ("EXPOSE http", "not a port"),
        ("RUN --mount=type=$A,target=/x y", "not a mount type"),
        ("USER ${U:?who}", "U: who"),
    ],
)
def test_errors_have_the_instructions_place(text: str, message: str) -> None:
    """What only the expanded words show to be wrong is an error at the instruction."""
    dockerfile = parse_dockerfile(f"FROM x\n\n{text}\n")
    with pytest.raises(DockerfileError, match=message) as caught:
        expand(dockerfile.stages[0].instructions[0], ENV, "\\")
    assert str(caught.value.location).startswith("Dockerfile:3:")


def test_variables_are_reported() -> None:
    """The names that the words used are known afterwards, for warnings and for cache keys."""
    result = expand(parse_one("COPY $A ${X:-$B} /$Y/"), ENV, "\\")
    assert result.used == {"A", "B"}
    assert result.unmatched == {"X", "Y"}


def test_the_escape_directive_counts() -> None:
    """Words follow the directive, bodies of heredocs do not."""
    text = "# escape=`\nFROM x\nCOPY `$A <<E c:\\x\n\\$A `$A\nE\n"
    dockerfile = parse_dockerfile(text)
    result = expand(dockerfile.stages[0].instructions[0], ENV, dockerfile.escape).instruction
    assert isinstance(result, i.Copy)
    assert result.sources == ("$A",)
    assert result.destination == "c:\\x"
    assert result.heredocs[0].content == "$A `one\n"
