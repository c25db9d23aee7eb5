"""What the rules look at: one registries.yaml as bytes, as K3s reads it, and what the caller knows besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pierhead.check.patterns import ReadRewrite, read_rewrites
from pierhead.check.pem import PemFiles
from pierhead.check.source import Source
from pierhead.config import k3s
from pierhead.config.k3s import Flags, K3sHosts
from pierhead.config.registries import Mirror, RegistriesConfig, Text, parse
from pierhead.config.versions import CURRENT, behaviour
from pierhead.errors import Problem, Span, UsageError
from pierhead.gourl import GoUrl, InvalidUrl

if TYPE_CHECKING:
    from pierhead.check.slips import Slip
    from pierhead.config.versions import K3sVersion
    from pierhead.image_list import ListedImage
    from pierhead.reference import Reference
    from pierhead.routing import Plan

Client = Literal["k3s", "wharfie", "containerd"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known besides the file.

    `images`: a list to hold against it, None for none; `image_problems`: its lines that are no image. `version` None:
    the newest K3s. `assert_no_egress`: a route outside the mirrors is an error. `look_at_files`: whether the files it
    names are on this machine. `path`: where the file itself is, None if it came through a pipe. `now` judges
    certificates.
    """

    now: datetime
    flags: Flags = Flags()
    client: Client = "k3s"
    version: K3sVersion | None = None
    images: tuple[ListedImage, ...] | None = None
    image_problems: tuple[Problem, ...] = ()
    assert_no_egress: bool = False
    look_at_files: bool = True
    path: str | None = None


@dataclass(frozen=True, slots=True)
class UsedEndpoint:
    """An endpoint of a mirror as K3s normalises it; `lookup` is the key of `configs` it is looked up by."""

    mirror: Mirror
    text: Text
    url: GoUrl
    lookup: str
    override_path: bool

    @property
    def host(self) -> str:
        """host[:port] as containerd connects to it."""
        return self.url.host


@dataclass(frozen=True)
class Subject:
    """Everything a rule may look at; what needs work is made when a rule first asks for it.

    `config` has empty mappings if K3s would refuse the file (`config.error`).
    """

    source: Source
    config: RegistriesConfig
    circumstances: Circumstances

    @classmethod
    def of(cls, data: bytes, file: str, circumstances: Circumstances) -> Subject:
        """A file under these circumstances; never raises on content."""
        return cls(Source.of(data, file), parse(data, file), circumstances)

    @property
    def flags(self) -> Flags:
        """The flags that K3s runs with."""
        return self.circumstances.flags

    @cached_property
    def hosts(self) -> K3sHosts | None:
        """What K3s, in the release that was named, makes of it; None if it refuses the file."""
        if self.config.error is not None:
            return None
        version = self.circumstances.version
        return k3s.hosts(self.config, self.flags, behaviour(version) if version else CURRENT)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """What the reader and the dialect say; every id of them belongs to a rule."""
        return (*self.config.problems, *(self.hosts.problems if self.hosts else ()))

    @cached_property
    def unsupported(self) -> tuple[Problem, ...]:
        """What the release that was named does not do; () if none was, or K3s refuses the file."""
        version = self.circumstances.version
        if version is None or self.config.error is not None:
            return ()
        from pierhead.config.k3s_support import unsupported  # only when a release is named

        return unsupported(self.config, self.flags, version)

    def problems_of(self, *ids: str) -> Iterator[Problem]:
        """The problems with one of these ids."""
        return (problem for problem in self.problems if problem.id in ids)

    @cached_property
    def slip(self) -> Slip | None:
        """What went wrong if the file is no YAML, as far as that can be told."""
        from pierhead.check.slips import slip  # only a broken file needs it

        return next((slip(self.source, problem) for problem in self.problems_of("yaml-syntax")), None)

    @cached_property
    def endpoints(self) -> tuple[UsedEndpoint, ...]:
        """Every endpoint of the file that K3s can use, in document order."""
        return tuple(self._endpoints())

    def endpoints_of(self, mirror: Mirror) -> tuple[UsedEndpoint, ...]:
        """Those of one mirror."""
        return tuple(self._endpoints_by_mirror.get(mirror.key.value, ()))

    @cached_property
    def _endpoints_by_mirror(self) -> Mapping[str, list[UsedEndpoint]]:
        found: dict[str, list[UsedEndpoint]] = {}
        for endpoint in self.endpoints:
            found.setdefault(endpoint.mirror.key.value, []).append(endpoint)
        return found

    def _endpoints(self) -> Iterator[UsedEndpoint]:
        for mirror in self.config.mirrors.values():
            for text in mirror.endpoints:
                try:
                    lookup, url, override = k3s.normalized(text.value)
                except InvalidUrl:
                    continue  # a rule of its own
                yield UsedEndpoint(mirror, text, url, lookup, override)

    # ── rewrites and routes ──

    @cached_property
    def rewrites(self) -> Mapping[str, tuple[ReadRewrite, ...]]:
        """The rewrites of every mirror that has some, as the client reads them, by the mirror's key."""
        detour = self.circumstances.client != "wharfie"  # which reads registries.yaml itself
        mirrors = self.config.mirrors.values()
        return {mirror.key.value: read_rewrites(mirror, detour=detour) for mirror in mirrors if mirror.rewrites}

    @cached_property
    def routed(self) -> tuple[tuple[ListedImage, Plan], ...]:
        """The images of the list, in its order, each with the places that the client asks; () without a list.

        They are planned registry by registry, so that each registry's patterns are compiled once.
        """
        images = self.circumstances.images or ()
        order = sorted(range(len(images)), key=lambda index: images[index].reference.registry)
        plans = {index: self.plan(images[index].reference) for index in order}
        return tuple((image, made) for index, image in enumerate(images) if (made := plans[index]) is not None)

    def plan(self, reference: Reference) -> Plan | None:
        """Where the client asks for an image; None if it refuses the name, or K3s does not start with the file."""
        from pierhead.dialects import plan_for
        from pierhead.routing import plan

        if self.hosts is None or self.hosts.error is not None:
            return None
        if self.circumstances.client == "k3s":
            return plan(reference, self.hosts.lookup(reference.registry))
        try:
            return plan_for(self.circumstances.client, str(reference), self.hosts)
        except UsageError:
            return None

    @cached_property
    def pem_files(self) -> PemFiles:
        """The certificates and keys of this machine, each file read once."""
        return PemFiles()

    @cached_property
    def is_node(self) -> bool:
        """Whether this machine is one that the file is for: it has K3s, or a certificate that the file names."""
        if not self.circumstances.look_at_files:
            return False
        settings = (entry.tls for entry in self.config.configs.values() if entry.tls)
        paths = (text.value for tls in settings for text in (tls.ca_file, tls.cert_file, tls.key_file) if text)
        named = any(self.pem_files[path].trouble is None for path in paths if path.startswith("/"))
        return named or Path(self.flags.agent_directory).is_dir()

    @cached_property
    def tls_users(self) -> Mapping[Span, tuple[str, ...]]:
        """For the place of each path in a `tls`: the registries whose hosts.toml names that file, mirrors first.

        containerd refuses every pull of such a registry if the file is not usable (specification, section 5).
        """
        found: dict[Span, dict[str, None]] = {}
        for name, directory in self.hosts.tree.directories.items() if self.hosts else ():
            registry = directory.key.value if directory.key else name
            for host in directory.hosts:
                tls = host.origin.config.tls if host.origin.config else None
                for text in (tls.ca_file, tls.cert_file, tls.key_file) if tls else ():
                    if text is not None:
                        found.setdefault(text.span, {})[registry] = None
        mirrors = self.config.mirrors
        return {span: tuple(sorted(names, key=lambda name: name not in mirrors)) for span, names in found.items()}
