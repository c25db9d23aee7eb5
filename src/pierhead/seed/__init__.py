"""Filling the mirrors: every image of a list put exactly where the nodes will ask for it, and proved to be there.

`mapping` runs registries.yaml forwards and decides (pure); `sources` is where images are taken from; `seeder` moves
them; `proof` asks as a node would ask, and says for which processors all of the list is there.
"""
