"""Credentials as docker, podman, their helpers and the flags leave them."""

from __future__ import annotations

import base64
import json
import os
import selectors
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pierhead import credential_helper, credentials
from pierhead.auth import BadCredential, Credential, Lookup
from pierhead.credential_helper import run_helper
from pierhead.credentials import CredentialSources, chain, flag_credential
from pierhead.errors import PierheadError, Span, UsageError
from pierhead.redact import Secret

PLANTED = "pl4nted-s3cret"


def packed(user: str, password: str = PLANTED) -> dict[str, str]:
    """An `auths` entry as `docker login` writes it."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Machine:
    """A home folder, a PATH of its own and an environment, to be filled by a test."""

    def __init__(self, root: Path) -> None:
        self.home, self.bin, self.run = root / "home", root / "bin", root / "run"
        self.home.mkdir()
        self.bin.mkdir()
        self.environment = {"PATH": f"{self.bin}{os.pathsep}{os.defpath}", "LOG": str(root / "log")}
        self.log = root / "log"

    def write(self, path: Path, value: object, mode: int = 0o600) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
        path.chmod(mode)
        return path

    def docker(self, value: object, mode: int = 0o600) -> Path:
        return self.write(self.home / ".docker" / "config.json", value, mode)

    def helper(self, name: str, script: str) -> Path:
        """A program whose first act is to note its arguments and its input as `$SERVER`."""
        note = 'SERVER=$(cat)\nprintf "%s %s\\n" "$*" "$SERVER" >> "$LOG"\n'
        return self.write(self.bin / f"docker-credential-{name}", f"#!/bin/sh\n{note}{script}\n", 0o700)

    def helper_with(self, name: str, answers: Mapping[str, Mapping[str, str]]) -> None:
        """A helper that knows these servers, and says of others what docker's own helpers say."""
        cases = "".join(f"'{server}') echo '{json.dumps(answer)}' ;;\n" for server, answer in answers.items())
        self.helper(
            name, f'case "$SERVER" in\n{cases}*) echo "credentials not found in native keychain"; exit 1 ;;\nesac'
        )

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def sources(self) -> CredentialSources:
        return CredentialSources(self.environment, self.home, run_folder=self.run)

    def user(self, host: str, repository: str = "") -> str | None:
        found = self.sources().lookup(host, repository)
        return found.username if found else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ── where ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_without_logins_knows_nothing(machine: Machine) -> None:
    sources = machine.sources()
    assert sources.lookup("reg.example") is None
    assert sources.problems == ()


def places(machine: Machine) -> list[tuple[Path, dict[str, str]]]:
    """Every place in the order of asking, with what the environment must say."""
    home, elsewhere = machine.home, machine.home / "elsewhere"
    return [
        (elsewhere / "config.json", {"DOCKER_CONFIG": str(elsewhere)}),
        (elsewhere / "named.json", {"REGISTRY_AUTH_FILE": str(elsewhere / "named.json")}),
        (elsewhere / "containers" / "auth.json", {"XDG_RUNTIME_DIR": str(elsewhere)}),
        (home / ".config" / "containers" / "auth.json", {}),
    ]


@pytest.mark.parametrize("first", range(4))
def test_the_first_place_that_knows_the_host_wins(machine: Machine, first: int) -> None:
    for number, (path, variables) in enumerate(places(machine)):
        machine.environment |= variables
        host = "reg.example" if number >= first else "other.example"
        machine.write(path, {"auths": {host: packed(f"user{number}")}})
    found = machine.sources().lookup("reg.example")
    assert found is not None
    assert (found.username, found.source) == (f"user{first}", "podman" if first else "docker")


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("home/.docker/config.json", {}),
        ("home/.docker/config.json", {"DOCKER_CONFIG": ""}),
        (f"run/containers/{os.getuid()}/auth.json", {}),
        ("xdg/containers/auth.json", {"XDG_CONFIG_HOME": "{root}/xdg"}),
    ],
)
def test_where_the_environment_says_nothing_the_usual_places_are_read(
    machine: Machine, tmp_path: Path, path: str, variables: dict[str, str]
) -> None:
    machine.environment |= {name: text.format(root=tmp_path) for name, text in variables.items()}
    machine.write(tmp_path / path, {"auths": {"reg.example": packed("alice")}})
    assert machine.user("reg.example") == "alice"


def test_a_place_the_environment_replaces_is_not_read(machine: Machine) -> None:
    machine.docker({"auths": {"reg.example": packed("alice")}})
    machine.environment["DOCKER_CONFIG"] = str(machine.home / "elsewhere")
    assert machine.user("reg.example") is None


def test_dev_null_says_that_there_is_nothing(machine: Machine) -> None:
    machine.environment["REGISTRY_AUTH_FILE"] = os.devnull
    sources = machine.sources()
    assert sources.lookup("reg.example") is None
    assert sources.problems == ()


# ── what an entry says ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_credential_knows_where_it_was_found(machine: Machine) -> None:
    path = machine.docker('{\n "auths": {\n  "https://reg.example": {"auth": "YWxpY2U6cHc="}}}')
    found = machine.sources().lookup("reg.example")
    span = Span(str(path), 3, 3)
    assert found == Credential("alice", Secret("pw"), "basic", "docker", "https://reg.example", span)


@pytest.mark.parametrize(
    ("entry", "username", "secret", "kind"),
    [
        (packed("alice", "a:b"), "alice", "a:b", "basic"),
        ({"username": "alice", "password": "pw"}, "alice", "pw", "basic"),
        ({**packed("alice", "good"), "username": "bob", "password": "bad"}, "alice", "good", "basic"),
        ({"identitytoken": "tok"}, "", "tok", "identity_token"),
        ({**packed("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "tok"}, "", "tok", "identity_token"),
    ],
)
def test_the_fields_of_an_entry(machine: Machine, entry: dict[str, str], username: str, secret: str, kind: str) -> None:
    machine.docker({"auths": {"reg.example": entry}})
    found = machine.sources().lookup("reg.example")
    assert found is not None
    assert (found.username, found.secret.reveal(), found.kind) == (username, secret, kind)


@pytest.mark.parametrize("entry", [{}, None, [], {"email": "a@b.example"}, {"auth": ""}, {"username": "alice"}])
def test_an_entry_without_a_secret_is_none(machine: Machine, entry: object) -> None:
    machine.docker({"auths": {"reg.example": entry}})
    machine.write(machine.home / ".config/containers/auth.json", {"auths": {"reg.example": packed("next")}})
    assert machine.user("reg.example") == "next"


@pytest.mark.parametrize(
    ("text", "user", "kind"), [("alice:pw", "alice", "basic"), ("<token>:tok", "", "identity_token")]
)
def test_a_flag_holds_user_and_password(text: str, user: str, kind: str) -> None:
    found = flag_credential(text)
    assert (found.username, found.kind, found.source) == (user, kind, "flag")
    assert found.secret.reveal() == text.partition(":")[2]


def test_a_flag_takes_its_password_from_elsewhere() -> None:
    assert flag_credential("alice", Secret("p:w")).secret == Secret("p:w")


@pytest.mark.parametrize(
    ("text", "password"),
    [("", None), ("alice", None), ("alice:", None), (f":{PLANTED}", None), (f"a:{PLANTED}", Secret("x"))],
)
def test_a_flag_that_says_too_little_or_too_much_is_refused(text: str, password: Secret | None) -> None:
    with pytest.raises(UsageError) as caught:
        flag_credential(text, password)
    assert PLANTED not in everything_shown(caught.value)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "host"),
    [
        *((key, "reg.example:5000") for key in ("reg.example:5000", "reg.example:5000/")),
        *((f"{scheme}://reg.example{tail}", "reg.example") for scheme in ("http", "https") for tail in ("", "/v1/")),
        ("https://reg.example/v2", "reg.example"),
        ("[::1]:5000", "[::1]:5000"),
        *(
            (key, host)
            for key in ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
            for host in ("docker.io", "registry-1.docker.io", "index.docker.io")
        ),
    ],
)
def test_a_key_that_speaks_for_a_host(machine: Machine, key: str, host: str) -> None:
    machine.docker({"auths": {key: packed("alice")}})
    assert machine.user(host) == "alice"


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("reg.example", "reg.example:5000"),
        ("reg.example:5000", "reg.example"),
        ("reg.example/team", "reg.example"),
        ("https://reg.example/team", "reg.example"),
        ("reg.example.evil.example", "reg.example"),
        ("https://reg.example@evil.example/v1/", "reg.example"),
        ("ftp://reg.example", "reg.example"),
        ("", "reg.example"),
    ],
)
def test_a_key_that_does_not(machine: Machine, key: str, host: str) -> None:
    machine.docker({"auths": {key: packed("alice")}})
    assert machine.user(host) is None


def test_an_exact_key_wins_over_one_that_must_be_read(machine: Machine) -> None:
    machine.docker({"auths": {"https://reg.example": packed("url"), "reg.example": packed("exact")}})
    assert machine.user("reg.example") == "exact"


@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("team/app", "repository"),
        ("team/app/part", "repository"),
        ("team/other", "team"),
        ("teams/app", "host"),
        ("", "host"),
    ],
)
def test_the_most_specific_key_wins(machine: Machine, repository: str, user: str) -> None:
    keys = {"reg.example": "host", "reg.example/team": "team", "reg.example/team/app": "repository"}
    machine.docker({"auths": {key: packed(name) for key, name in keys.items()}})
    assert machine.user("reg.example", repository) == user


@given(st.lists(st.sampled_from("abc"), max_size=4), st.sets(st.lists(st.sampled_from("abc"), max_size=4).map(tuple)))
def test_a_key_below_the_host_speaks_for_what_is_below_it(wanted: list[str], known: set[tuple[str, ...]]) -> None:
    auths = {"/".join(("reg.example", *parts)): None for parts in known}
    found = list(credentials._keys(auths, ("reg.example",), "/".join(wanted)))
    above = [tuple(wanted[:length]) for length in range(len(wanted), -1, -1)]
    assert found == ["/".join(("reg.example", *parts)) for parts in above if parts in known]


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def answer(username: str, secret: str = PLANTED) -> dict[str, str]:
    return {"ServerURL": "https://somewhere.example", "Username": username, "Secret": secret}


def test_a_helper_is_told_the_server_on_its_standard_input(machine: Machine) -> None:
    machine.helper_with("vault", {"reg.example": answer("alice")})
    path = machine.docker({"credHelpers": {"reg.example": "vault"}})
    found = machine.sources().lookup("reg.example")
    assert machine.asked() == ["get reg.example"]
    assert found is not None
    assert found == Credential("alice", Secret(PLANTED), "basic", "helper", "reg.example", found.span)
    assert str(found.span).startswith(f"{path}:3:")


def test_the_user_token_means_an_identity_token(machine: Machine) -> None:
    machine.helper_with("vault", {"reg.example": answer("<token>")})
    machine.docker({"credsStore": "vault"})
    found = machine.sources().lookup("reg.example")
    assert found is not None
    assert (found.username, found.kind, found.secret) == ("", "identity_token", Secret(PLANTED))


@pytest.mark.parametrize(
    ("host", "servers"),
    [
        ("reg.example", ["reg.example", "https://reg.example"]),
        ("docker.io", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"]),
    ],
)
def test_a_helper_is_asked_for_every_name_a_login_may_have_used(
    machine: Machine, host: str, servers: list[str]
) -> None:
    machine.helper_with("vault", {})
    machine.docker({"credsStore": "vault"})
    assert machine.user(host) is None
    assert machine.asked() == [f"get {server}" for server in servers]


def test_what_was_asked_is_not_asked_again(machine: Machine) -> None:
    machine.helper_with("vault", {"reg.example": answer("alice")})
    machine.docker({"credsStore": "vault"})
    sources = machine.sources()
    threads = [
        threading.Thread(target=sources.lookup, args=("reg.example", f"team/{number % 2}")) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert machine.asked() == ["get reg.example"]


def test_a_failure_is_not_repeated_either(machine: Machine) -> None:
    machine.helper("vault", "exit 3")
    machine.docker({"credsStore": "vault"})
    sources = machine.sources()
    for _ in range(2):
        with pytest.raises(BadCredential, match=r"docker-credential-vault failed for reg\.example \(exit status 3\)"):
            sources.lookup("reg.example")
    assert machine.asked() == ["get reg.example"]


def test_the_order_within_a_file(machine: Machine) -> None:
    machine.helper_with("own", {"own.example": answer("own")})
    machine.helper_with(
        "all", {host: answer("all") for host in ("own.example", "both.example", "kept.example", "written.example")}
    )
    auths = {"own.example": packed("written"), "written.example": packed("written"), "kept.example": {}}
    machine.docker({"auths": auths, "credsStore": "all", "credHelpers": {"own.example": "own", "both.example": "own"}})
    users = {host: machine.user(f"{host}.example") for host in ("own", "both", "kept", "written")}
    assert users == {"own": "own", "both": "all", "kept": "all", "written": "written"}


@pytest.mark.parametrize("name", ["absent", "../../bin/sh", "", "a b"])
def test_a_missing_helper_of_one_registry_is_an_error_for_it_alone(machine: Machine, name: str) -> None:
    path = machine.docker({"credHelpers": {"reg.example": name}, "auths": {"other.example": packed("alice")}})
    sources = machine.sources()
    with pytest.raises(BadCredential, match="is not installed") as caught:
        sources.lookup("reg.example")
    assert caught.value.span is not None
    assert caught.value.span.file == str(path)
    other = sources.lookup("other.example")
    assert other is not None
    assert other.username == "alice"


def test_a_missing_helper_of_every_registry_is_a_warning(machine: Machine) -> None:
    machine.docker({"credsStore": "desktop.exe"})
    machine.write(machine.home / ".config/containers/auth.json", {"auths": {"reg.example": packed("alice")}})
    sources = machine.sources()
    for host in ("reg.example", "public.example"):
        found = sources.lookup(host)
        assert (found is not None) == (host == "reg.example")
    assert [(problem.id, problem.severity) for problem in sources.problems] == [
        ("credential-helper-missing", "warning")
    ]
    assert "docker-credential-desktop.exe" in sources.problems[0].message


def test_a_helper_gets_the_environment_given_and_no_other(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAK", "leaked")
    machine.environment["GIVEN"] = "given"
    machine.helper("env", """printf '{"Username": "%s", "Secret": "x%s"}' "$GIVEN" "$LEAK" """)
    machine.docker({"credsStore": "env"})
    found = machine.sources().lookup("reg.example")
    assert found is not None
    assert (found.username, found.secret.reveal()) == ("given", "x")


@pytest.mark.parametrize(
    "output", ["", "[]", '{"Username": "alice"}', '{"Username": 1, "Secret": "x"}', f'{{"Secret": "{PLANTED}"']
)
def test_an_answer_that_is_none_is_refused(machine: Machine, output: str) -> None:
    machine.helper("odd", f"printf %s '{output}'")
    machine.docker({"credsStore": "odd"})
    with pytest.raises(
        BadCredential, match="docker-credential-odd answers something that is not a credential"
    ) as caught:
        machine.sources().lookup("reg.example")
    assert PLANTED not in everything_shown(caught.value)


def test_a_helper_that_fails_does_not_get_its_words_shown(machine: Machine) -> None:
    machine.helper("loud", f"echo {PLANTED}; echo {PLANTED} >&2; exit 1")
    machine.docker({"credsStore": "loud"})
    with pytest.raises(BadCredential) as caught:
        machine.sources().lookup("reg.example")
    assert PLANTED not in everything_shown(caught.value)


def test_an_endless_answer_is_cut(machine: Machine) -> None:
    path = machine.helper("endless", "exec cat /dev/zero")
    with pytest.raises(BadCredential, match=f"more than {credential_helper.HELPER_ANSWER_LIMIT_BYTES} bytes"):
        run_helper(str(path), "reg.example", machine.environment)


@pytest.mark.parametrize("before", ["", "exec >&-\n"], ids=["holding-its-output", "closing-its-output"])
def test_a_helper_that_hangs_is_ended_with_all_it_started(machine: Machine, tmp_path: Path, before: str) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        path = machine.helper("slow", f"exec 3>'{held}'\n{before}sleep 600 &\nsleep 600")
        with pytest.raises(BadCredential, match=r"did not answer for reg\.example in 0\.5 s"):
            run_helper(str(path), "reg.example", machine.environment, timeout_seconds=0.5)
        with selectors.DefaultSelector() as selector:  # the end of the pipe: nobody holds it any more
            selector.register(reader, selectors.EVENT_READ)
            assert selector.select(20) or machine.asked() == []
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_helper_that_does_not_listen(machine: Machine) -> None:
    path = machine.write(machine.bin / "deaf", "#!/bin/sh\nexec <&-\nprintf '{}'\n", 0o700)
    assert run_helper(str(path), "reg.example", machine.environment) == b"{}"


def test_a_helper_that_cannot_be_run(machine: Machine) -> None:
    path = machine.write(machine.bin / "docker-credential-x", "#!/nowhere/interpreter\n", 0o700)
    with pytest.raises(BadCredential, match="docker-credential-x cannot be run: No such file"):
        run_helper(str(path), "reg.example", machine.environment)


# ── files that are not as they should be ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (f'{{\n "auths": {{"r": {{"auth": "{PLANTED}"}} "x": 1}}}}', "2:", "not JSON"),
        (f'"{PLANTED}"', "1:1", "not a JSON object"),
        ("[" * 100_000, "1:1", "not JSON that can be read"),
        (f'{{"auths": ["{PLANTED}"]}}', "1:1", "'auths' is not a JSON object"),
        ('{"credHelpers": "x"}', "1:1", "'credHelpers' is not a JSON object"),
        (f'{{"auths": {{"reg.example": {{"auth": "{PLANTED}!"}}}}}}', "1:", "auths.reg.example: `auth` is not base64"),
        (" " * credentials.FILE_LIMIT_BYTES + "{}", "1:1", "larger than 1048576 bytes"),
    ],
)
def test_a_bad_file_is_named_and_not_shown(machine: Machine, text: str, place: str, reason: str) -> None:
    path = machine.docker(text)
    with pytest.raises(BadCredential) as caught:
        machine.sources().lookup("reg.example")
    assert str(caught.value).startswith(f"{path}:{place}")
    assert reason in str(caught.value)
    assert PLANTED not in everything_shown(caught.value)


def test_a_file_of_other_bytes_is_named_with_its_line(machine: Machine) -> None:
    machine.docker("{}").write_bytes(b'{\n"' + PLANTED.encode() + b'\xff": 1}')
    with pytest.raises(BadCredential, match=r"config\.json:2:1: not UTF-8") as caught:
        machine.sources().lookup("reg.example")
    assert PLANTED not in everything_shown(caught.value)


def not_an_object(raw: bytes) -> bool:
    """Whether this is neither empty nor a JSON object that could be a config.json."""
    try:
        value = json.loads(raw.decode()) if raw.decode().strip() else {}
    except ValueError:
        return True
    if not isinstance(value, dict):
        return True
    return not all(isinstance(value.get(name), dict | None) for name in ("auths", "credHelpers"))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,auths \n', max_size=60).map(str.encode))
def test_no_content_makes_anything_else_than_a_bad_credential(raw: bytes) -> None:
    path = Path("config.json")
    refused = None
    try:
        credentials._parse_store(path, "docker", credentials._decode(raw, path), mode=0o600)
    except BadCredential as error:
        refused = error
    assert refused is None or (refused.span is not None and refused.span.file == "config.json")
    assert (refused is not None) == not_an_object(raw)


def test_an_empty_file_is_no_login(machine: Machine) -> None:
    machine.docker("\n")
    assert machine.user("reg.example") is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_secrets_that_others_can_read_are_pointed_out(machine: Machine, mode: int) -> None:
    path = machine.docker({"auths": {"reg.example": packed("alice")}}, mode)
    sources = machine.sources()
    sources.lookup("other.example")
    assert len(sources.problems) == 1
    problem = sources.problems[0]
    assert (problem.id, problem.severity) == ("open-credentials", "warning")
    assert str(path) in problem.message
    assert f"mode {mode:04o}" in problem.message


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ({"auths": {"reg.example": {}}, "credsStore": "absent"}, 0o644),
        ({"auths": {"reg.example": packed("alice")}}, 0o600),
    ],
)
def test_an_open_file_without_secrets_is_fine(machine: Machine, value: object, mode: int) -> None:
    machine.docker(value, mode)
    sources = machine.sources()
    sources.lookup("reg.example")
    assert "open-credentials" not in {problem.id for problem in sources.problems}


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_cannot_be_read_is_left_out_and_said(machine: Machine, kind: str) -> None:
    path = machine.home / "odd"
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
    }
    make[kind]()
    machine.environment["REGISTRY_AUTH_FILE"] = str(path)
    machine.write(machine.home / ".config/containers/auth.json", {"auths": {"reg.example": packed("alice")}})
    sources = machine.sources()
    assert sources.lookup("reg.example") is not None
    assert [problem.id for problem in sources.problems] == ["unreadable-credentials"]
    assert str(path) in sources.problems[0].message


# ── several sources ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chain_asks_until_one_knows() -> None:
    asked: list[str] = []

    def source(name: str, known: str) -> Lookup:
        def lookup(host: str) -> Credential | None:
            asked.append(f"{name} {host}")
            return Credential(name, Secret(PLANTED)) if host == known else None

        return lookup

    lookup = chain(source("first", "a.example"), source("second", "b.example"), source("third", "b.example"))
    users = [found.username if (found := lookup(host)) else None for host in ("a.example", "b.example", "c.example")]
    assert users == ["first", "second", None]
    assert asked[:3] == ["first a.example", "first b.example", "second b.example"]
    assert chain()("a.example") is None


def test_a_chain_does_not_hide_a_failure(machine: Machine) -> None:
    machine.docker("{")
    with pytest.raises(BadCredential):
        chain(machine.sources().lookup, lambda host: Credential("alice", Secret("x")))("reg.example")


def test_nothing_of_it_shows_a_secret(machine: Machine) -> None:
    machine.docker({"auths": {"reg.example": packed("alice")}}, 0o644)
    sources = machine.sources()
    found = sources.lookup("reg.example")
    shown = f"{sources!r} {vars(sources)!r} {found!r} {sources.problems!r}"
    assert "alice" in shown
    assert PLANTED not in shown
    assert packed("alice")["auth"] not in shown


def everything_shown(error: PierheadError) -> str:
    """All that a log, a traceback with values or a curious handler could print of an error and of what caused it."""
    shown, cause = "", error.__cause__ or error.__context__
    shown += f"{error!r} {error} {error.hint} {error.args} {''.join(traceback.format_exception(error))}"
    while cause is not None:
        shown += f"{cause!r} {vars(cause)}"
        cause = cause.__cause__ or cause.__context__
    return shown
