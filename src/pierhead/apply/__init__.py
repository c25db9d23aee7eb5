"""Putting a registries.yaml into effect without a restart: the files of a runtime, changed as one set.

`target` finds the runtime and its folder; `wanted` says what should be there, `changes` holds it against what is, and
`node` knows what a running containerd will not notice. `effect` puts these together, `journal` makes the change (wholly
or not at all, whenever it is killed), `prove` asks the registries first, `watch` does it again when the file changes.
"""
