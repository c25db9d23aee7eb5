"""The nodes of a cluster beside each other: what is not the same on all of them, said as an operator would say it.

`sources` finds out who the nodes are, `folders` and `ssh` collect their files (`Collected`), `node` reads those as K3s
does (`Node`), `facts` takes them apart into what can be compared, `stale` holds a node's certs.d against its own
registries.yaml, and `compare` makes the `Report`, in the sentences of `words`.
"""
