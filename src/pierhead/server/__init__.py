"""The embedded registry: `registry.Registry` is the protocol over a store, `http` the sockets around it."""
