"""Go's text formats, as users of Docker type and see them.

Docker's programs take these rules from Go's standard library (``strconv``, ``time``,
``encoding/json``) and from ``docker/go-units``. Every reader and writer of such text in Portside
is here, once, with Go's words for what is wrong. The command line imports these modules, so none
imports ``re``, ``datetime`` or anything else that takes time to load, unless a function needs it.
"""
