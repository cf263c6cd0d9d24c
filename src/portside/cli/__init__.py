"""The ``portside`` command.

``main`` finds the verb's module by ``commands``, which alone is imported then; each verb
declares its flags in a table of text, from which parsing, help and completion come. Modules
import nothing that a short command does not need: see ``portside.client`` for the figures.
"""
