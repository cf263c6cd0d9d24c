"""``portside compose``: verbs, progress and logs of projects on a terminal.

What a project is and how it is changed is in ``portside.compose``.
"""
