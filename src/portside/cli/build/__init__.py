"""``portside build``: the client's side of a build."""
