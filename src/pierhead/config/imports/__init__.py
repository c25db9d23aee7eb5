"""registries.yaml from what other programs were told: certs.d, registries.conf, daemon.json, and logins.

The way back of the renderers. Each module reads one program's files into a `Draft`; `written` makes the text of it.
Nothing is lost in silence: what K3s' file has no words for is a `Problem` at its place in the source.
"""
