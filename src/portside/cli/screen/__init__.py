"""``portside ui``: a live screen of containers, images and volumes.

Textual is imported here only, and only when the screen is shown.
"""
