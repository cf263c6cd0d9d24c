"""A registry: the OCI distribution-spec over HTTP, on a directory or an S3 bucket.

From the outside in::

    serve      process: settings, TLS, signals           (``portside registry serve``)
    app        aiohttp application: routes, middleware
    handlers   one module a resource: blobs, uploads, manifests, tags, tokens, page
    content    repositories, links, tags, referrers      (rules of the spec, no HTTP)
    storage    keys and bytes: file system or S3

Nothing here needs root. The directory layout is the one ``registry:2`` uses, so that a
data volume can change hands in either direction.
"""
