"""Asking every route of an image, and saying what is wrong with each: a plan asked without stopping at a success.

`prober` asks many at once: `places` looks at where routes lead, `routes` asks one route for an image, `verdict` says
what containerd would make of the answers, `remedy` what a person should do about them.
"""
