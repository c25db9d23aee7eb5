"""Logins: what is tried, where they are kept, and that nothing but that place ever holds the password."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from command import Ran, run_pierhead
from fuzzing import documents
from pierhead.auth import BadCredential, Credential, from_registries
from pierhead.config import k3s
from pierhead.config.registries import UnusableConfig, parse
from pierhead.credential_helper import erase_with_helper, store_with_helper
from pierhead.credentials import CredentialSources
from pierhead.errors import UsageError
from pierhead.login import credential_of, registries_file, registry_named
from pierhead.login.auth_file import AuthFile, UnusableAuthFile
from pierhead.login.registries_file import CannotEdit
from pierhead.redact import Secret

PLANTED = "pl4nted-s3cret"
ALICE = Credential("alice", Secret(PLANTED))
PACKED = base64.b64encode(f"alice:{PLANTED}".encode()).decode()


# ── names and words ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry.lan:5000", "registry.lan:5000"),
        ("https://registry.lan:5000/v2/", "registry.lan:5000"),
        ("http://registry.lan/", "registry.lan"),
        ("registry", "registry"),
        ("[::1]:5000", "[::1]:5000"),
        ("10.0.0.5:5000", "10.0.0.5:5000"),
    ],
)
def test_names_of_registries(text: str, registry: str) -> None:
    assert registry_named(text) == registry


@pytest.mark.parametrize(
    "text", ["", "registry.lan/team", "ftp://registry.lan", "a b", "registry.lan:", "-x", "a/", "é"]
)
def test_what_names_no_registry(text: str) -> None:
    if text == "a/":
        assert registry_named(text) == "a"
        return
    with pytest.raises(UsageError, match="is no registry"):
        registry_named(text)


def test_a_registry_with_a_password_in_it_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        registry_named(f"https://alice:{PLANTED}@registry.lan")
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("username", "password", "said"),
    [
        ("", PLANTED, "user name"),
        ("a:b", PLANTED, "user name"),
        ("a\n", PLANTED, "user name"),
        ("<token>", PLANTED, "identity token"),
        ("alice", "", "empty"),
        ("alice", f"{PLANTED}\n{PLANTED}", "line break"),
        ("alice", f"{PLANTED}\0", "control character"),
        ("alice", f"{PLANTED}\udcff", "not UTF-8"),
    ],
)
def test_what_is_no_user_or_password(username: str, password: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        credential_of(username, Secret(password))
    assert PLANTED not in str(caught.value)


# ── docker's and podman's file ───────────────────────────────────────────────────────────────────────────────────

HELPER = r"""#!/bin/sh
# Keeps what it is told below $KEPT, one file for each server.
input=$(cat)
echo "$1" >> "$KEPT/log"
case "$1" in
store) server=$(printf '%s' "$input" | sed 's/.*"ServerURL": "\([^"]*\)".*/\1/') ;;
*) server=$input ;;
esac
file="$KEPT/$(printf '%s' "$server" | tr '/' '_')"
case "$1" in
store) printf '%s' "$input" > "$file" ;;
get) if [ -e "$file" ]; then cat "$file"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm -f "$file" ;;
esac
"""


@dataclass
class Machine:
    """A home folder, and a helper called `kept` on the PATH."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "bin", "kept"):
            (self.folder / name).mkdir()
        helper = self.folder / "bin" / "docker-credential-kept"
        helper.write_text(HELPER)
        helper.chmod(0o700)
        self.environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.defpath}",
            "HOME": str(self.home),
            "KEPT": str(self.folder / "kept"),
        }

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def config(self) -> Path:
        return self.home / ".docker" / "config.json"

    @property
    def docker(self) -> AuthFile:
        return AuthFile(self.config, "docker", self.environment)

    def write(self, value: object, mode: int = 0o600) -> None:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))
        self.config.chmod(mode)

    def read(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.config.read_text())
        return value

    def found(self, host: str, **more: str) -> tuple[str, str] | None:
        """Whom pierhead takes itself for at a host, with a new look at the files."""
        sources = CredentialSources({**self.environment, **more}, self.home, run_folder=self.folder / "run")
        credential = sources.lookup(host)
        return (credential.username, credential.secret.reveal()) if credential else None

    def helper_was(self) -> list[str]:
        log = self.folder / "kept" / "log"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("text", "key", "host"),
    [
        ("registry.lan:5000", "registry.lan:5000", "registry.lan:5000"),
        ("docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"),
        ("registry-1.docker.io", "https://index.docker.io/v1/", "docker.io"),
        ("[::1]:5000", "[::1]:5000", "[::1]:5000"),
        ("https://ghcr.io/v1/", "ghcr.io", "ghcr.io"),
    ],
)
def test_a_new_file_is_what_lookups_find(machine: Machine, text: str, key: str, host: str) -> None:
    kept = machine.docker.keep(registry_named(text), ALICE)
    assert (kept.place, kept.notes) == (str(machine.config), ())
    assert machine.read() == {"auths": {key: {"auth": PACKED}}}
    assert (mode(machine.config), mode(machine.config.parent)) == (0o600, 0o700)
    assert machine.found(host) == ("alice", PLANTED)
    assert machine.docker.forget(registry_named(text)) == (str(machine.config),)
    assert machine.read() == {"auths": {}}
    assert machine.found(host) is None
    assert machine.docker.forget(registry_named(text)) == ()


def test_the_rest_of_the_file_stays_in_its_order(machine: Machine) -> None:
    before = {
        "HttpHeaders": {"X": "1"},
        "auths": {"a.example": {"auth": "YTpi"}, "registry.lan": {"auth": "b2xk", "email": "x"}, "c.example": {}},
        "experimental": "enabled",
        "big": 12345678901234567890,
        "été": "😀",
    }
    machine.write(before)
    machine.docker.keep("registry.lan", ALICE)
    after = machine.read()
    assert list(after) == list(before)
    auths = after.pop("auths")
    assert isinstance(auths, dict)
    assert list(auths) == ["a.example", "registry.lan", "c.example"]
    assert auths["registry.lan"] == {"auth": PACKED}
    assert after == {key: value for key, value in before.items() if key != "auths"}
    assert '\n  "' in machine.config.read_text()  # its own indentation


def test_an_older_spelling_of_the_same_registry_goes(machine: Machine) -> None:
    machine.write({"auths": {"docker.io": {"auth": "YTpi"}, "https://registry.lan/v1/": {"auth": "YTpi"}}})
    kept = machine.docker.keep("docker.io", ALICE)
    assert kept.notes == (f"docker.io: an older login to the same registry, taken out of {machine.config}",)
    machine.docker.keep("registry.lan", ALICE)
    assert machine.read()["auths"] == {key: {"auth": PACKED} for key in ("https://index.docker.io/v1/", "registry.lan")}
    assert machine.found("docker.io") == machine.found("registry.lan") == ("alice", PLANTED)


@pytest.mark.parametrize("open_mode", [0o644, 0o640, 0o666])
def test_a_file_that_others_can_read_is_closed(machine: Machine, open_mode: int) -> None:
    machine.write({}, open_mode)
    kept = machine.docker.keep("registry.lan", ALICE)
    assert mode(machine.config) == 0o600
    assert kept.notes == (f"others could read {machine.config} (mode {open_mode:04o}); it has mode 0600 now",)
    machine.docker.forget("registry.lan")
    machine.config.chmod(open_mode)
    machine.docker.forget("other.lan")
    assert mode(machine.config) == open_mode  # nothing in it, nothing to close


def test_a_link_stays_one(machine: Machine) -> None:
    real = machine.folder / "real.json"
    real.write_text("{}")
    machine.config.parent.mkdir()
    machine.config.symlink_to(real)
    machine.docker.keep("registry.lan", ALICE)
    assert machine.config.is_symlink()
    assert "registry.lan" in real.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{{"auths": {{"x": {{"auth": "{PLANTED}"}}', "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"auths": []}', "'auths' in it"),
        ('{"credHelpers": "x"}', "'credHelpers' in it"),
        ("[" * 100_000, "not a JSON object"),
        (" " * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_file_that_is_none_is_left_alone(machine: Machine, text: str, said: str) -> None:
    machine.write(text)
    for act in (lambda: machine.docker.keep("registry.lan", ALICE), lambda: machine.docker.forget("registry.lan")):
        with pytest.raises(UnusableAuthFile, match=said) as caught:
            act()
        assert PLANTED not in str(caught.value)
    assert machine.config.read_text() == text


def test_what_is_no_file_is_refused(machine: Machine) -> None:
    machine.config.parent.mkdir()
    os.mkfifo(machine.config)
    with pytest.raises(UnusableAuthFile, match="not a regular file"):
        machine.docker.keep("registry.lan", ALICE)
    with pytest.raises(UnusableAuthFile, match="not a regular file"):
        AuthFile(Path(os.devnull), "podman", {}).keep("registry.lan", ALICE)


@pytest.mark.parametrize(
    ("settings_of_file", "registry", "host"),
    [
        ({"credsStore": "kept"}, "registry.lan:5000", "registry.lan:5000"),
        ({"credHelpers": {"registry.lan": "kept"}, "credsStore": "missing"}, "registry.lan", "registry.lan"),
        ({"credsStore": "kept"}, "docker.io", "registry-1.docker.io"),
        ({"credHelpers": {"https://index.docker.io/v1/": "kept"}}, "docker.io", "registry-1.docker.io"),
    ],
)
def test_a_helper_keeps_the_secret_and_the_file_does_not(
    machine: Machine, settings_of_file: dict[str, object], registry: str, host: str
) -> None:
    machine.write({**settings_of_file, "auths": {registry: {"auth": "YTpi"}}}, 0o644)
    kept = machine.docker.keep(registry, ALICE)
    assert kept.place == "docker-credential-kept"
    assert PACKED not in machine.config.read_text()
    assert "YTpi" not in machine.config.read_text()
    assert machine.found(host) == ("alice", PLANTED)
    places = machine.docker.forget(registry)
    assert set(places) == {str(machine.config), "docker-credential-kept"}
    assert machine.helper_was()[-1] in ("erase", "get")
    assert machine.found(host) is None
    assert machine.docker.forget(registry) == ()


def test_a_helper_for_another_registry_is_not_asked(machine: Machine) -> None:
    machine.write({"credHelpers": {"other.lan": "kept"}})
    machine.docker.keep("registry.lan", ALICE)
    assert machine.helper_was() == []
    assert machine.found("registry.lan") == ("alice", PLANTED)


def test_without_its_helper_nothing_is_written_in_the_clear(machine: Machine) -> None:
    machine.write({"credsStore": "missing"})
    before = machine.config.read_bytes()
    with pytest.raises(BadCredential, match="is not installed"):
        machine.docker.keep("registry.lan", ALICE)
    assert machine.config.read_bytes() == before


def test_a_helper_that_fails_leaves_the_file_as_it_was(machine: Machine) -> None:
    helper = machine.folder / "bin" / "docker-credential-kept"
    helper.write_text(f"#!/bin/sh\necho {PLANTED}; exit 3\n")
    machine.write({"credsStore": "kept"})
    before = machine.config.read_bytes()
    with pytest.raises(BadCredential, match="could not store") as caught:
        machine.docker.keep("registry.lan", ALICE)
    assert PLANTED not in str(caught.value) + caught.value.hint
    assert machine.config.read_bytes() == before


def test_a_helper_is_told_a_long_secret_and_not_waited_for_without_end(machine: Machine) -> None:
    path = str(machine.folder / "bin" / "docker-credential-kept")
    long = Credential("alice", Secret("x" * 200_000))
    store_with_helper(path, "registry.lan", long, machine.environment)
    assert len((machine.folder / "kept" / "registry.lan").read_text()) > 200_000
    Path(path).write_text("#!/bin/sh\nexec sleep 1000\n")
    with pytest.raises(BadCredential, match=r"did not answer for registry.lan in 0\.3 s"):
        store_with_helper(path, "registry.lan", long, machine.environment, timeout_seconds=0.3)
    with pytest.raises(BadCredential, match="did not answer"):
        erase_with_helper(path, "registry.lan", machine.environment, timeout_seconds=0.3)


def test_podmans_file_has_podmans_keys_and_no_helper_for_everything(machine: Machine) -> None:
    path = machine.folder / "auth.json"
    path.write_text('{"credsStore": "kept"}')
    podman = AuthFile(path, "podman", machine.environment)
    podman.keep("docker.io", ALICE)
    assert json.loads(path.read_text())["auths"] == {"docker.io": {"auth": PACKED}}
    assert machine.found("registry-1.docker.io", REGISTRY_AUTH_FILE=str(path)) == ("alice", PLANTED)


# ── registries.yaml ──────────────────────────────────────────────────────────────────────────────────────────────


def keep_in(folder: Path, before: str, registry: str, credential: Credential = ALICE) -> tuple[str, tuple[str, ...]]:
    """The file after a login, and what was said."""
    path = folder / "registries.yaml"
    path.write_text(before, newline="")
    path.chmod(0o600)
    kept = registries_file.keep(path, registry, credential)
    return path.read_bytes().decode(), kept.notes


def user_of(text: str, host: str) -> tuple[str, str] | None:
    found = from_registries(k3s.auth_for(parse(text.encode(), "r.yaml"), host))
    return (found.username, found.secret.reveal()) if found else None


BLOCK = f'username: "alice"\n      password: "{PLANTED}"\n'

KEPT = {
    "nothing": ("", f'configs:\n  "r.lan":\n    auth:\n      {BLOCK}'),
    "only a comment": ("# mine\n", f'# mine\nconfigs:\n  "r.lan":\n    auth:\n      {BLOCK}'),
    "no configs": (
        "mirrors:\n  r.lan:\n    endpoint: [https://r.lan]\n# end\n",
        f'mirrors:\n  r.lan:\n    endpoint: [https://r.lan]\nconfigs:\n  "r.lan":\n    auth:\n      {BLOCK}# end\n',
    ),
    "no last line break": (
        "mirrors:\n  r.lan:\n    endpoint: [https://r.lan]",
        f'mirrors:\n  r.lan:\n    endpoint: [https://r.lan]\nconfigs:\n  "r.lan":\n    auth:\n      {BLOCK}'.rstrip(),
    ),
    "configs of others": (
        "configs:\n    # theirs\n    other.lan:\n        tls: {insecure_skip_verify: true}  # for now\n\nmirrors: {}\n",
        "configs:\n    # theirs\n    other.lan:\n        tls: {insecure_skip_verify: true}  # for now\n"
        f'    "r.lan":\n      auth:\n        username: "alice"\n        password: "{PLANTED}"\n\nmirrors: {{}}\n',
    ),
    "configs that are empty": (
        "configs:\n",
        f'configs: {{"r.lan": {{auth: {{username: "alice", password: "{PLANTED}"}}}}}}\n',
    ),
    "an entry with tls": (
        "configs:\n  r.lan:\n    tls:\n      ca_file: /ca.pem # the CA\nmirrors:\n",
        f"configs:\n  r.lan:\n    tls:\n      ca_file: /ca.pem # the CA\n    auth:\n      {BLOCK}mirrors:\n",
    ),
    "an entry in brackets": (
        "configs: {r.lan: {tls: {ca_file: /ca.pem}}} # x\n",
        f'configs: {{r.lan: {{tls: {{ca_file: /ca.pem}}, auth: {{username: "alice", password: "{PLANTED}"}}}}}} # x\n',
    ),
    "an entry that is empty": (
        "configs:\n  r.lan:\n  b.lan: {}\n",
        f'configs:\n  r.lan: {{auth: {{username: "alice", password: "{PLANTED}"}}}}\n  b.lan: {{}}\n',
    ),
    "another password": (
        "configs:\n  r.lan:\n    auth:\n      # robot\n      username: bob  # was\n      password: 'x'\n    tls: {}\n",
        "configs:\n  r.lan:\n    auth:\n      # robot\n"
        f'      username: "alice"  # was\n      password: "{PLANTED}"\n    tls: {{}}\n',
    ),
    "another password in brackets": (
        "configs: {r.lan: {auth: {password: old, username: bob}}}\n",
        f'configs: {{r.lan: {{auth: {{password: "{PLANTED}", username: "alice"}}}}}}\n',
    ),
    "a user without a password": (
        "configs:\n  r.lan:\n    auth:\n      username: bob\n",
        f"configs:\n  r.lan:\n    auth:\n      {BLOCK}",
    ),
    "a password that is missing": (
        "configs:\n  r.lan:\n    auth:\n      username: bob\n      password:\n",
        f"configs:\n  r.lan:\n    auth:\n      {BLOCK}",
    ),
    "an auth that is packed": (
        "configs:\n  r.lan:\n    auth:\n      auth: Ym9iOm9sZA==\n    tls: {}\n",
        f"configs:\n  r.lan:\n    auth:\n      {BLOCK}    tls: {{}}\n",
    ),
    "a token beside": (
        "configs:\n  r.lan:\n    auth:\n      identity_token: old\n      username: bob\n      password: old\n",
        f"configs:\n  r.lan:\n    auth:\n      {BLOCK}",
    ),
    "a block scalar": (
        "configs:\n  r.lan:\n    auth:\n      username: bob\n      password: |-\n        old\n    tls: {}\n",
        f"configs:\n  r.lan:\n    auth:\n      {BLOCK}    tls: {{}}\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), KEPT.values(), ids=KEPT)
def test_only_the_needed_bytes_change(tmp_path: Path, before: str, after: str) -> None:
    text, _ = keep_in(tmp_path, before, "r.lan")
    assert text == after
    assert user_of(text, "r.lan") == ("alice", PLANTED)
    assert mode(tmp_path / "registries.yaml") == 0o600


def test_windows_line_ends_and_byte_order_marks_stay(tmp_path: Path) -> None:
    text, _ = keep_in(tmp_path, "\ufeffmirrors:\r\n  r.lan:\r\n    endpoint: [https://r.lan]\r\n", "r.lan")
    assert text.startswith("\ufeffmirrors:\r\n")
    assert text.count("\r\n") == text.count("\n") == 8
    path = tmp_path / "registries.yaml"
    path.write_bytes("configs:\n  other.lan: {}\n".encode("utf-16"))
    registries_file.keep(path, "r.lan", Credential("ä", Secret(PLANTED + "ß")))
    assert f'password: "{PLANTED}ß"' in path.read_bytes().decode("utf-16")


def test_what_was_taken_out_is_told(tmp_path: Path) -> None:
    _, notes = keep_in(tmp_path, "configs:\n  r.lan:\n    auth: {auth: b2xk, identity_token: old}\n", "r.lan")
    assert [note.split()[0] for note in notes] == ["auth.auth", "auth.identity_token"]


@pytest.mark.parametrize(
    ("before", "registry", "key"),
    [
        ("", "docker.io", "registry-1.docker.io"),
        ("configs: {docker.io: {tls: {}}}", "docker.io", "docker.io"),
        ("configs: {docker.io: {tls: {}}, registry-1.docker.io: {tls: {}}}", "docker.io", "registry-1.docker.io"),
        ("configs: {index.docker.io: {auth: {username: b}}, docker.io: {}}", "docker.io", "index.docker.io"),
        ("configs: {index.docker.io: {}}", "docker.io", "registry-1.docker.io"),
        ("mirrors: {a.lan: {endpoint: ['https://r.lan:443']}}", "r.lan", "r.lan:443"),
        ("mirrors: {a.lan: {endpoint: ['https://R.lan/v2/x']}}", "r.lan:443", "R.lan"),
        ("mirrors: {a.lan: {endpoint: ['http://r.lan', 'https://r.lan:443']}}", "r.lan:80", "r.lan"),
        ("mirrors: {a.lan: {endpoint: ['https://r.lan:443', 'https://r.lan']}}", "r.lan", "r.lan"),
        ("mirrors: {a.lan: {endpoint: ['https://r.lan:8443']}}", "r.lan", "r.lan"),
        ("mirrors: {a.lan: {endpoint: ['://', 'https://[::1]:5000']}}", "[::1]:5000", "[::1]:5000"),
    ],
)
def test_the_key_is_the_one_that_k3s_looks_for(tmp_path: Path, before: str, registry: str, key: str) -> None:
    text, notes = keep_in(tmp_path, before, registry)
    config = parse(text.encode(), "r.yaml")
    assert {name for name, entry in config.configs.items() if entry.auth is not None} == {key}
    assert user_of(text, "registry-1.docker.io" if registry == "docker.io" else key) == ("alice", PLANTED)
    assert bool(notes) == (key not in (registry, "registry-1.docker.io", "docker.io", "index.docker.io"))
    registries_file.forget(tmp_path / "registries.yaml", registry)
    assert user_of((tmp_path / "registries.yaml").read_text(), key) is None


def test_a_mirror_has_a_login_of_its_own(tmp_path: Path) -> None:
    _, notes = keep_in(tmp_path, "mirrors: {quay.io: {endpoint: ['https://m.lan:5000']}}", "quay.io")
    assert notes == ("images of quay.io are asked for at m.lan:5000 first, which has a login of its own",)


def test_what_cannot_be_changed_alone_stays(tmp_path: Path) -> None:
    path = tmp_path / "registries.yaml"
    before = "configs:\n  r.lan:\n    auth: &a {username: bob, password: old}\n  s.lan: {auth: *a}\n"
    path.write_text(before)
    with pytest.raises(CannotEdit, match="cannot be edited safely") as caught:
        registries_file.keep(path, "r.lan", ALICE)
    with pytest.raises(CannotEdit):
        registries_file.forget(path, "r.lan")
    assert PLANTED not in str(caught.value) + caught.value.hint
    assert path.read_text() == before


@pytest.mark.parametrize(
    "before",
    [
        "base: &b {auth: {username: x}}\nconfigs:\n  r.lan: *b\n  s.lan: *b\n",
        "configs:\n  s.lan: &s {tls: {ca_file: /c}}\n  r.lan:\n    <<: *s\n",
        "mirrors: {}\n...\n",
        "---\nmirrors:\n---\nconfigs: {r.lan: {auth: {username: second}}}\n",
    ],
)
def test_unusual_files_are_changed_all_the_same(tmp_path: Path, before: str) -> None:
    text, _ = keep_in(tmp_path, before, "r.lan")
    assert user_of(text, "r.lan") == ("alice", PLANTED)
    assert said_of_others(text.encode(), "r.lan") == said_of_others(before.encode(), "r.lan")


def test_an_alias_is_not_written_through(tmp_path: Path) -> None:
    before = "configs:\n  s.lan: &s\n    auth: {username: bob, password: old}\n  r.lan: *s\n"
    path = tmp_path / "registries.yaml"
    path.write_text(before)
    registries_file.keep(path, "r.lan", ALICE)
    text = path.read_text()
    assert user_of(text, "r.lan") == ("alice", PLANTED)
    assert user_of(text, "s.lan") == ("bob", "old")


def test_a_file_that_k3s_would_refuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registries.yaml"
    path.write_text("configs:\n\tr.lan: {}\n")
    with pytest.raises(UnusableConfig):
        registries_file.keep(path, "r.lan", ALICE)
    assert path.read_text() == "configs:\n\tr.lan: {}\n"
    with pytest.raises(UsageError) as caught:
        registries_file.keep(tmp_path / "missing" / "r.yaml", "r.lan", ALICE)
    assert "there is no folder" in caught.value.hint


def test_a_new_file_and_logout_from_it(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    assert registries_file.forget(path, "r.lan") == ()
    registries_file.keep(path, "r.lan", ALICE)
    assert mode(path) == 0o600
    assert registries_file.forget(path, "r.lan") == (f"configs.'r.lan'.auth of {path}",)
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "configs:\n  r.lan:\n    tls: {ca_file: /c} # CA\n    auth:\n      username: a\n      password: b\n# end\n",
            "configs:\n  r.lan:\n    tls: {ca_file: /c} # CA\n# end\n",
        ),
        ("configs:\n  r.lan: {auth: {username: a}}\n  s.lan: {}\n", "configs:\n  s.lan: {}\n"),
        ("configs: {r.lan: {auth: {username: a}}, s.lan: {}}\n", "configs: {s.lan: {}}\n"),
        ("mirrors: {}\nconfigs: {r.lan: {auth: {username: a}}}\n", "mirrors: {}\n"),
        ("{configs: {r.lan: {auth: {username: a}}}}\n", "{configs: {r.lan: {auth: null}}}\n"),
        ("configs: {r.lan: {auth: {username: a}, tls: {ca_file: /c}}}\n", "configs: {r.lan: {tls: {ca_file: /c}}}\n"),
    ],
)
def test_logout_takes_out_the_login_alone(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "registries.yaml"
    path.write_text(before)
    registries_file.forget(path, "r.lan")
    assert path.read_text() == after


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
PASSWORDS = TEXTS | st.sampled_from(
    ["'", '"', "\\", "\\n", "#x", "a: b", "*a", "~", "1e3", "{{", "%", " x ", "\u2028", "\x85"]
)


@given(TEXTS.filter(lambda name: name.isprintable() and ":" not in name and name != "<token>"), PASSWORDS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_k3s_reads_exactly_the_password(tmp_path: Path, username: str, password: str) -> None:
    assume("\x85" not in password)
    credential = credential_of(username, Secret(password))
    text, _ = keep_in(tmp_path, "configs:\n  r.lan: {auth: {username: x}}\n", "r.lan", credential)
    assert user_of(text, "r.lan") == (username, password)


def said_of_others(text: bytes, key: str) -> tuple[object, ...]:
    """All that a file says but for the login under one key."""
    config = parse(text, "r.yaml")
    mirrors = [
        (name, [end.value for end in item.endpoints], [(r.pattern.value, r.replacement.value) for r in item.rewrites])
        for name, item in config.mirrors.items()
    ]
    others = {
        name: from_registries_or_none(item)
        for name, item in config.configs.items()
        if name != key and (item.auth or item.tls)
    }
    tls = {
        name: (
            item.tls.ca_file and item.tls.ca_file.value,
            item.tls.cert_file and item.tls.cert_file.value,
            item.tls.insecure_skip_verify,
        )
        for name, item in config.configs.items()
        if item.tls
    }
    return mirrors, others, tls


def from_registries_or_none(item: object) -> object:
    from pierhead.config.registries import Config

    assert isinstance(item, Config)
    try:
        found = from_registries(item)
    except BadCredential as error:
        return error.message
    return found and (found.username, found.secret, found.kind)


@given(documents(), st.sampled_from(["r.lan", "docker.io", "registry.lan:5000", "quay.io", "10.0.0.1:5000"]))
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_file_means_what_it_meant_and_the_login(tmp_path: Path, data: bytes, registry: str) -> None:
    assume(b"new-" not in data)  # hypothesis also tries the words of this file
    path = tmp_path / "any.yaml"
    path.write_bytes(data)
    credential = Credential("alice", Secret("new-" + PLANTED))
    refused: UsageError | None = None
    try:
        registries_file.keep(path, registry, credential)
    except UsageError as error:
        refused = error
    if refused is not None:
        assert path.read_bytes() == data
        assert "new-" not in str(refused) + refused.hint
        return
    config = parse(data, "r.yaml")
    key = registries_file.key_of(config, registry)[0]
    written = path.read_bytes()
    found = from_registries(
        k3s.auth_for(parse(written, "r.yaml"), "registry-1.docker.io" if registry == "docker.io" else key)
    )
    assert found is not None
    assert (found.username, found.secret) == (credential.username, credential.secret)
    assert said_of_others(written, key) == said_of_others(data, key)
    registries_file.forget(path, registry)
    assert b"new-" not in path.read_bytes()


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Guard:
    """A registry as far as a login needs one: `/v2/`, for alice only, or for everybody."""

    address: str = ""
    passwords: list[str] = field(default_factory=list)


@contextmanager
def guard(*, everybody: bool = False) -> Iterator[Guard]:
    state = Guard()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "")
            if sent:
                state.passwords.append(base64.b64decode(sent.removeprefix("Basic ")).decode())
            granted = everybody or sent == f"Basic {PACKED}"
            self.send_response(200 if granted else 401)
            if not granted:
                self.send_header("WWW-Authenticate", 'Basic realm="guard"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def run(machine: Machine, *arguments: str | Path, stdin: str = PLANTED, code: int = 0, **more: str) -> Ran:
    ran = run_pierhead(*arguments, env={**machine.environment, **more}, stdin=stdin, code=code)
    assert PLANTED not in ran.out + ran.err
    assert PACKED not in ran.out + ran.err
    return ran


def test_login_and_logout(machine: Machine) -> None:
    with guard() as registry:
        ran = run(machine, "login", registry.address, "-u", "alice", "--password-stdin", stdin=f"{PLANTED}\n")
        assert ran.out == f"{registry.address}: alice is kept in {machine.config}\n"
        assert ran.err == ""
        assert registry.passwords == [f"alice:{PLANTED}"]
        assert machine.found(registry.address) == ("alice", PLANTED)
        ran = run(machine, "logout", registry.address)
        assert ran.out == f"{registry.address}: taken out of {machine.config}\n"
        assert machine.found(registry.address) is None
        ran = run(machine, "logout", registry.address)
        assert ran.out == f"{registry.address}: there was no login\n"


def test_what_the_registry_refuses_is_not_written_and_tried_once(machine: Machine) -> None:
    with guard() as registry:
        ran = run(machine, "login", registry.address, "-u", "bob", "--password-stdin", "--trace", "-", code=4)
        assert "refuses the login: 401 Unauthorized" in ran.err
        assert "nothing was written" in ran.err
        assert registry.passwords == [f"bob:{PLANTED}"]
        assert '"Basic ***"' in ran.err
    assert not machine.config.exists()


def test_a_registry_that_cannot_be_asked(machine: Machine, closed_port: str) -> None:
    place = closed_port
    ran = run(machine, "login", place, "-u", "alice", "--password-stdin", code=5)
    assert "connection refused" in ran.err
    assert "--no-verify" in ran.err
    assert not machine.config.exists()
    run(machine, "login", place, "-u", "alice", "--password-stdin", "--no-verify")
    assert machine.found(place) == ("alice", PLANTED)


def test_a_registry_that_asks_nobody(machine: Machine) -> None:
    with guard(everybody=True) as registry:
        arguments = ("login", registry.address, "-u", "alice", "--password-stdin", "-o", "json")
        told = json.loads(run(machine, *arguments).out)
    assert told == {
        "registry": registry.address,
        "username": "alice",
        "verified": False,
        "kept": str(machine.config),
        "notes": [f"{registry.address} lets everybody in, so the password was not tried"],
    }


@pytest.mark.parametrize("option", [f"-p{PLANTED}", f"--password={PLANTED}"])
def test_a_password_is_no_argument(machine: Machine, option: str) -> None:
    ran = run(machine, "login", "registry.lan", "-u", "alice", option, stdin="", code=2)
    assert "--password-stdin" in ran.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("-u", "alice"), "", "no terminal"),
        (("--password-stdin",), PLANTED, "-u USER"),
        (("-u", "alice", "--password-stdin"), "", "the password is empty"),
        (("-u", "alice", "--password-stdin"), f"{PLANTED}\nmore", "line break"),
        (("-u", "alice", "--password-stdin"), "x" * 70_000, "too long"),
        (("-u", "alice", "--password-stdin", "--authfile", "x", "--registries-yaml=y"), PLANTED, "two places"),
        (("-u", "alice", "--password-stdin", "--registries-yaml=-"), PLANTED, "standard output"),
        (("-u", "alice", "--password-stdin", "--cert-file", "/etc/hostname"), PLANTED, "go together"),
    ],
)
def test_calls_that_cannot_be_meant(machine: Machine, arguments: tuple[str, ...], stdin: str, said: str) -> None:
    assert said in run(machine, "login", "registry.lan", *arguments, stdin=stdin, code=2).err
    assert not machine.config.exists()


def on_a_terminal(machine: Machine, answers: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own and answer what it asks for; its exit code, and all that was shown."""
    import pty
    import select
    import sys

    from command import PIERHEAD, environment

    child, terminal = pty.fork()
    if not child:
        os.execve(PIERHEAD, [str(PIERHEAD), *arguments], environment(machine.environment))
        sys.exit(127)
    shown, left = "", dict(answers)
    while select.select([terminal], [], [], 60)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece.decode()
        for question in [question for question in left if question in shown]:
            os.write(terminal, f"{left.pop(question)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_a_terminal_is_asked_and_does_not_show_the_password(machine: Machine) -> None:
    with guard() as registry:
        answers = {"user name: ": "alice", "password: ": PLANTED}
        code, shown = on_a_terminal(machine, answers, "login", registry.address)
    assert code == 0, shown
    assert PLANTED not in shown
    assert machine.found(registry.address) == ("alice", PLANTED)


def test_login_to_registries_yaml_by_the_terms_of_its_endpoint(machine: Machine) -> None:
    with guard() as registry:
        file = machine.folder / "registries.yaml"
        before = f"mirrors:\n  hub.example:\n    endpoint:\n      - http://{registry.address}/v2  # ours\n"
        file.write_text(before)
        file.chmod(0o644)
        arguments = ("login", registry.address, "-u", "alice", "--password-stdin", f"--registries-yaml={file}")
        ran = run(machine, *arguments)
        assert f"kept in configs.'{registry.address}'.auth of {file}" in ran.out
        assert "mode 0600 now" in ran.err
        assert "systemctl restart k3s" in ran.err
        assert mode(file) == 0o600
        assert user_of(file.read_text(), registry.address) == ("alice", PLANTED)
        assert file.read_text().startswith(before)
        assert not machine.config.exists()
        ran = run(machine, "logout", registry.address, "--registries-yaml", "--private-registry", file)
        assert "systemctl restart k3s" in ran.err
        assert file.read_text() == before


def test_another_login_that_comes_first_is_told(machine: Machine) -> None:
    file = machine.folder / "registries.yaml"
    file.write_text("configs:\n  r.lan:\n    auth: {username: bob, password: x}\n")
    arguments = ("login", "r.lan", "-u", "alice", "--password-stdin", "--no-verify")
    ran = run(machine, *arguments, "--private-registry", file)
    assert f"which comes first: r.lan of {file}:3:" in ran.err
    auth = machine.folder / "auth.json"
    run(machine, *arguments, "--authfile", auth)
    ran = run(machine, "logout", "r.lan", REGISTRY_AUTH_FILE=str(auth))
    assert f"there is still a login of alice: r.lan of {auth}" in ran.err
    ran = run(machine, "logout", "r.lan", "--authfile", auth)
    assert ran.out == f"r.lan: taken out of {auth}\n"


def test_a_file_nobody_looks_into_is_told(machine: Machine) -> None:
    auth = machine.folder / "auth.json"
    arguments = ("login", "r.lan", "-u", "alice", "--password-stdin", "--no-verify", "--authfile", auth)
    assert "set REGISTRY_AUTH_FILE" in run(machine, *arguments).err
    assert run(machine, *arguments, REGISTRY_AUTH_FILE=str(auth)).err == ""


def test_a_full_disk_or_a_closed_folder_is_one_sentence(machine: Machine) -> None:
    machine.home.joinpath(".docker").write_text("")  # a file where the folder should be
    ran = run(machine, "login", "r.lan", "-u", "alice", "--password-stdin", "--no-verify", code=2)
    assert "cannot be used" in ran.err


def test_the_password_is_in_no_process_list(machine: Machine) -> None:
    helper = machine.folder / "bin" / "docker-credential-kept"
    seen = machine.folder / "seen"
    helper.write_text(f"#!/bin/sh\ncat > /dev/null\ncat /proc/*/cmdline > {seen} 2>/dev/null\nexit 0\n")
    machine.write({"credsStore": "kept"})
    password = "another-s3cret"  # one that no other test gives as an argument at the same time
    run(machine, "login", "r.lan", "-u", "alice", "--password-stdin", "--no-verify", stdin=password)
    assert b"docker-credential-kept" in seen.read_bytes()
    assert password.encode() not in seen.read_bytes()
