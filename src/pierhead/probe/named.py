"""The places that registries.yaml names: every endpoint, and every host of `configs` that is no endpoint."""

from __future__ import annotations

from dataclasses import replace

from pierhead.config.k3s import K3sHosts
from pierhead.config.near import nearest
from pierhead.errors import Span
from pierhead.probe.places import Named
from pierhead.routing import route_to

_Way = tuple[str, object, bool]


def named_places(hosts: K3sHosts) -> list[Named]:
    """Each place once, in the order of the file, with every line that names it.

    The registries themselves are not among them: they are asked for images, and often cannot be reached on purpose.
    """
    found: dict[_Way, Named] = {}
    for directory in hosts.tree.directories.values():
        for host in directory.hosts:
            if host.origin.endpoint is not None:
                _add(found, Named(route_to(host)), host.origin.endpoint.span)
    endpoints = dict.fromkeys(named.route.host for named in found.values())
    without_entry = [host for host in endpoints if host not in hosts.config.configs]
    for key, entry in hosts.config.configs.items():
        host = hosts.lookup(key).hosts[-1]
        if key != "*" and host.host not in endpoints:
            near = nearest(key, without_entry)
            named = Named(route_to(host), what="configs", meant=near.name if near else "")
            _add(found, named, entry.key.span)
    places = sorted(found.values(), key=lambda named: named.spans[0])
    return [replace(named, route=replace(named.route, order=order)) for order, named in enumerate(places, 1)]


def _add(found: dict[_Way, Named], named: Named, span: Span) -> None:
    route = named.route
    way = (route.url, route.tls, route.http_fallback)
    known = found.get(way, replace(named, route=replace(route, span=span)))
    found[way] = replace(known, spans=(*known.spans, span))
