"""Compose Specification: files, validated project, plan, calls to the engine.

``yaml_source`` reads files and remembers positions, ``interpolation`` and ``dotenv`` fill in
variables, ``merge`` joins several files, ``canonical`` turns short forms into long ones,
``spec`` says what each attribute is, and ``project`` makes one validated project of all that.
"""
